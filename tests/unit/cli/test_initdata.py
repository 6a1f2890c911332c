"""``coco-agent initdata``: nothing is measured that no agent reads, and a lost layer has a name."""

from __future__ import annotations

import base64
import gzip
import json
from typing import TYPE_CHECKING

import pytest

from agent.cli.main import main
from agent.tee.initdata_transport import ANNOTATION, annotation, build, unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AA = '[token_configs.kbs]\nurl = "https://kbs.example:8080"\n'
CDH = '[kbc]\nname = "cc_kbc"\nurl = "https://kbs.example:8080"\n'
DOCUMENT = build({"aa.toml": AA})
VALUE = annotation(DOCUMENT)
assert {"+", "/"} & set(VALUE), "or there is nothing to tell the alphabets apart by"


def text(encoded: bytes) -> str:
    return base64.b64encode(encoded).decode()


class Files:
    """Files to build from, and what the command says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def put(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        status = main(["initdata", *arguments])
        said = self.capsys.readouterr()
        return status, said.out, said.err


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Files:
    return Files(tmp_path, capsys)


# --- build ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("aa.toml", "[token_configs.kbs\n", "aa.toml: not TOML"),
        ("aa.toml", "[token_configs.kbs]\nurl = 7\n", "token_configs.kbs.url"),
        ("aa.toml", "[token_configs.kbs]\n", "missing"),
        ("aa.toml", "[token_confgs.kbs]\n" + AA.partition("\n")[2], "did you mean token_configs?"),
        ("aa.toml", AA + 'cert = "cert"\n', "BEGIN CERTIFICATE"),
        ("cdh.toml", AA, "kbc.name: is missing"),
        ("cdh.toml", CDH.replace("cc_kbc", "cc_kbs"), "does not exist"),
        ("cdh.toml", json.dumps({"kbc": {"name": "cc_kbc"}}), "not TOML"),
        ("cdh.tom", CDH, "did you mean cdh.toml?"),
        ("CDH.toml", CDH, "did you mean cdh.toml?"),
        ("aa.json", "{}", "read by nobody"),
        ("notes.txt", "", "read by nobody"),
    ],
)
def test_rubbish_is_not_measured(files: Files, name: str, content: str, says: str) -> None:
    path = files.put(name, content)
    status, out, err = files.run("build", path)
    assert (status, out) == (1, "")
    assert says in err
    assert "--force" in err
    status, out, err = files.run("build", "--force", path)
    assert status == 0
    assert says in err
    assert unpack(out.encode()).document


def test_two_files_of_one_name_are_refused_whatever_is_said(files: Files) -> None:
    first, second = files.put("a/aa.toml", AA), files.put("b/aa.toml", AA)
    for arguments in (("build", first, second), ("build", "--force", first, f"aa.toml={second}")):
        status, out, err = files.run(*arguments)
        assert (status, out) == (1, "")
        assert "two files of the name aa.toml" in err


def test_warnings_are_told_and_do_not_hinder(files: Files) -> None:
    status, out, err = files.run("build", files.put("aa.toml", AA.replace("https", "http")))
    assert status == 0
    assert out
    assert "warning: aa.toml: token_configs.kbs.url: is plain http" in err


def test_good_files_are_built_without_a_word_more(files: Files) -> None:
    paths = (
        files.put("aa.toml", AA),
        files.put("cdh.toml", CDH),
        files.put("policy.rego", "package agent_policy\n"),
    )
    status, out, err = files.run("build", *paths)
    assert (status, err.split()[0], len(err.splitlines())) == (0, "digest", 1)
    assert out


def test_a_key_of_a_known_file_is_no_file(files: Files) -> None:
    status, _, err = files.run("build", files.put("aa.toml", f"{AA}[data]\nx = 1\n"))
    assert status == 0
    assert "data: is not a key of this file" in err


# --- inspect ------------------------------------------------------------------------------------------
LAYERS: dict[str, tuple[Callable[[], str | bytes], str]] = {
    "no gzip": (lambda: text(DOCUMENT), "gzip is missing"),
    "no gzip, lines": (lambda: base64.encodebytes(DOCUMENT), "gzip is missing"),
    "base64 twice": (lambda: text(VALUE.encode()), "base64 twice"),
    "base64 twice, no gzip": (lambda: text(text(DOCUMENT).encode()), "base64 twice"),
    "gzip twice": (lambda: text(gzip.compress(gzip.compress(DOCUMENT))), "gzip twice"),
    "gzip twice, file": (lambda: gzip.compress(gzip.compress(DOCUMENT)), "gzip twice"),
    "gzip of base64": (lambda: gzip.compress(VALUE.encode()), "its gzip holds base64"),
    "annotation of annotation": (lambda: annotation(VALUE.encode()), "its gzip holds base64"),
    "base64url": (
        lambda: base64.urlsafe_b64encode(gzip.compress(DOCUMENT + b"#\xc3\xbf" * 99, mtime=0)),
        "base64url",
    ),
    "no padding": (lambda: annotation(DOCUMENT + b"\n").rstrip("="), "padding"),
    "quotes": (lambda: f'"{VALUE}"\n', "quotes"),
    "single quotes": (lambda: f"'{VALUE}'", "quotes"),
    "quotes, no gzip": (lambda: f'"{text(DOCUMENT)}"', "quotes"),
    "YAML": (lambda: f"{ANNOTATION}: {VALUE}\n", "YAML"),
    "YAML with quotes": (lambda: f'    {ANNOTATION}: "{VALUE}"\n', "YAML"),
    "YAML block": (lambda: f"annotations:\n  {ANNOTATION}: |\n    {VALUE}\n", "YAML"),
    "shell": (lambda: f"INITDATA={VALUE}\n", "YAML"),
}


@pytest.mark.parametrize(("made", "says"), LAYERS.values(), ids=LAYERS.keys())
def test_the_layer_that_is_wrong_is_named(files: Files, made: Callable[[], str | bytes], says: str) -> None:
    path = files.put("given", made())
    for action in ("inspect", "digest"):
        status, out, err = files.run(action, path)
        assert (status, out) == (1, "")
        assert says in err
        assert "kbs.example" not in err


def test_a_broken_document_is_still_one(files: Files) -> None:
    _, _, err = files.run("inspect", files.put("given", b'version = "0.1.0"\nalgorithm = \n'))
    assert "not TOML at line 2" in err


def test_inspect_says_what_the_check_says(files: Files) -> None:
    value = annotation(build({"aa.toml": AA.replace("https", "http"), "cdh.toml": "[kbc]\n", "x": ""}))
    status, out, _ = files.run("inspect", files.put("given", value))
    assert status == 1
    assert "INVALID: cdh.toml: kbc.name: is missing" in out
    assert "good; key broker http://kbs.example:8080" in out
    assert "note: aa.toml: token_configs.kbs.url: is plain http" in out
    assert "measured, but read by nobody" in out
