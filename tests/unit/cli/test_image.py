"""``coco-agent image`` without an agent: what is typed, what is printed, what is left on disk."""

from __future__ import annotations

import io
import json
import resource
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from agent.cli import connect
from agent.cli.main import main
from agent.cli.progress import Progress
from agent.errors import AgentError
from tests.unit.hub.image.support import KID, PLAINTEXT, TAG, Maker, blobs, simple

if TYPE_CHECKING:
    from pathlib import Path


def image(*words: str | Path) -> int:
    return main(["image", *map(str, words)])


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return simple(tmp_path / "app", PLAINTEXT, b"second", b"third")


def test_there_and_back_with_a_key_file(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, secret, again = tmp_path / "kek", tmp_path / "secret", tmp_path / "again"
    assert image("encrypt", f"{plain}:latest", secret, "--random", key, "--kid", KID) == 0
    assert "3 of 3 layers encrypted" in capsys.readouterr().out
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert image("decrypt", secret, again, "--key", key, "--json") == 0
    output, errors = capsys.readouterr()
    said = json.loads(output)
    assert errors == ""
    assert [one["number"] for one in said["layers"]] == [0, 1, 2]
    digest = json.loads((plain / "index.json").read_bytes())["manifests"][0]["digest"]
    assert said["manifests"][0]["after"] == digest
    assert blobs(again) == blobs(plain)


def test_a_private_key_file_opens_what_was_made_for_it(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = rsa.generate_private_key(65537, 2048)
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(owner.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(owner.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert image("encrypt", plain, tmp_path / "b", "--recipient", f"jwe:{public}", "--layers", "0,-1") == 0
    assert image("inspect", tmp_path / "b") == 0
    shown = capsys.readouterr().out
    assert shown.count("jwe RSA-OAEP") == 2
    assert "tar+gzip+encrypted" in shown
    assert image("decrypt", tmp_path / "b", tmp_path / "c", "--jwe-key", private, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert blobs(tmp_path / "c") == blobs(plain)


def test_inspect_says_who_can_unwrap(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(
        "encrypt", plain, tmp_path / "b", "--random", tmp_path / "kek", "--kid", KID, "--layers", "1..2", "-q"
    )
    assert image("inspect", tmp_path / "b", "--json") == 0
    layers = json.loads(capsys.readouterr().out)["manifests"][0]["layers"]
    assert [one["encrypted"] for one in layers] == [False, True, True]
    assert layers[1]["keys"] == [{"scheme": "provider.attestation-agent", "for": KID}]
    assert layers[0]["media_type"] == "application/vnd.oci.image.layer.v1.tar+gzip"


def test_names_in_an_image_do_not_reach_the_terminal_s_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maker = Maker(tmp_path / "a")
    maker.index(maker.manifest([PLAINTEXT], annotations={TAG: "x\x1b[2J\n"}))
    assert image("inspect", maker.root) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ((), "name a key"),
        (("--kid", KID), "--kid goes with"),
        (("--key", "none"), "--kid goes with"),
        (("--recipient", "pgp:x"), "jwe:FILE"),
        (("--random", "new", "--kid", "not a uri"), "error: INVALID_URI"),
        (("--random", "new", "--kid", KID, "--layers", "0..9"), "0..9 of 3 layers"),
        (("--random", "new", "--kid", KID, "--layers", "first"), "--layers is a list"),
        (("--random", "new", "--kid", KID, "--layers", ""), "--layers is a list"),
        (("--random", "new", "--kid", KID, "--jobs", "-1"), "--jobs"),
        (("--key", "short", "--kid", KID), "32 raw bytes"),
        (("--random", "short", "--kid", KID), "File exists"),
    ],
)
def test_wrong_words_write_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    cause: str,
) -> None:
    plain = simple(tmp_path / "app", PLAINTEXT, b"second", b"third")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_bytes(b"x" * 31)
    assert image("encrypt", plain, tmp_path / "b", *words) == 1
    assert cause in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    # A key that nothing is encrypted with would stop the next try; a file of the user's stays.
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "short").read_bytes() == b"x" * 31


@pytest.mark.parametrize("target", ["app", "no/folder"])
def test_a_new_key_goes_when_the_image_cannot_be_written(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    before = sorted(tmp_path.iterdir())
    assert image("encrypt", plain, tmp_path / target, "--random", tmp_path / "kek", "--kid", KID) == 1
    said = capsys.readouterr().err
    assert "The command cannot be carried out as it was given." in said
    assert f"cause: {tmp_path / target}" in said
    assert "route" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_half_a_file_is_not_left(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(AgentError, match="File too large"):
            connect.write_output(b"x" * 32, str(tmp_path / "kek"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_key_leaves_nothing_and_says_which_layer(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image("encrypt", plain, tmp_path / "b", "--random", tmp_path / "kek", "--kid", KID)
    (tmp_path / "other").write_bytes(b"k" * 32)
    before = sorted(tmp_path.iterdir())
    assert image("decrypt", tmp_path / "b", tmp_path / "c", "--key", tmp_path / "other") == 1
    said = capsys.readouterr().err
    assert "IMAGE_KEY_UNWRAP_FAILED" in said
    assert "layer 0 (sha256:" in said
    assert sorted(tmp_path.iterdir()) == before


def test_an_image_without_encrypted_layers_is_copied(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert image("decrypt", plain, tmp_path / "b") == 0
    said = capsys.readouterr().out
    assert "0 of 3 layers decrypted" in said
    assert "is unchanged" in said
    assert blobs(tmp_path / "b") == blobs(plain)


@pytest.mark.parametrize("tag", ["latest", "docker.io/library/app:1.0"])
def test_a_reference_may_hold_colons_and_a_digest(tmp_path: Path, tag: str) -> None:
    root = simple(tmp_path / "with:colon", tag=tag)
    digest = json.loads((root / "index.json").read_bytes())["manifests"][0]["digest"]
    for name in (f"{root}", f"{root}:{tag}", f"{root}@{digest}", f"{root}:{tag}@{digest}"):
        assert image("inspect", name) == 0
    for name in (f"{root}:other", f"{root}@sha256:{'0' * 64}", f"{root}@x", f"{root}x"):
        assert image("inspect", name) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_drawn_on_terminals_only() -> None:
    for stream, quiet, drawn in (
        (Terminal(), False, True),
        (Terminal(), True, False),
        (io.StringIO(), False, False),
    ):
        with Progress("decrypt", 4 << 20, quiet=quiet, stream=stream) as bar:
            bar.advance(1 << 20)
            bar.advance(3 << 20)
        assert ("100% 4 MiB" in stream.getvalue()) is drawn
        assert bool(stream.getvalue()) is drawn
