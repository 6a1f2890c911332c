"""``coco-agent image`` against a running agent, and against a real skopeo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from agent.devkit.playground import playground
from tests.integration import oci
from tests.integration.oci import Layout
from tests.integration.support import BIN, CLEAN_ENVIRONMENT, run

if TYPE_CHECKING:
    from pathlib import Path

    from agent.devkit.playground import Playground
    from tests.integration.oci import Skopeo

pytestmark = pytest.mark.integration

KEY = "default/image-kek/1"
CONTENTS = [b"first layer\n" * 20_000, os.urandom(300_000), b""]


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    return oci.build(tmp_path / "source", CONTENTS)


@pytest.fixture
async def skopeo(tmp_path: Path) -> Skopeo:
    return await oci.find_skopeo(tmp_path)


def key_pair(folder: Path, kind: str) -> tuple[bytes, Path]:
    private = (
        rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP384R1())
    )
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), folder / "public.pem"


async def image(*words: str | Path) -> tuple[int, str, str]:
    status, output, errors = await run("coco-agent", "image", *map(str, words))
    return status, output.decode(), errors


async def encrypt(source: Layout, target: Path, *options: str | Path) -> Layout:
    status, _, errors = await image("encrypt", source.folder, target, *options)
    assert (status, errors) == (0, "")
    return Layout(target)


async def test_the_running_agent_unwraps_every_layer_s_key(
    place: Playground, source: Layout, tmp_path: Path
) -> None:
    secret = await encrypt(source, tmp_path / "b", "--random", tmp_path / "kek", "--kid", f"kbs:///{KEY}")
    place.kbs.put(KEY, (tmp_path / "kek").read_bytes())
    status, output, errors = await image(
        "decrypt", secret.folder, tmp_path / "c", "-s", place.hub_socket, "--json"
    )
    assert (status, errors) == (0, "")
    assert len(json.loads(output)["layers"]) == len(CONTENTS)
    assert Layout(tmp_path / "c").layers() == source.layers()
    assert Layout(tmp_path / "c").manifest() == source.manifest()
    assert place.kbs.counters["attest"] == 1


async def test_a_policy_that_denies_is_named_and_leaves_nothing(
    place: Playground, source: Layout, tmp_path: Path
) -> None:
    secret = await encrypt(source, tmp_path / "b", "--random", tmp_path / "kek", "--kid", f"kbs:///{KEY}")
    place.kbs.put(KEY, (tmp_path / "kek").read_bytes())
    place.kbs.deny(KEY)
    before = sorted(tmp_path.iterdir())
    status, _, errors = await image("decrypt", secret.folder, tmp_path / "c", "-s", place.hub_socket)
    assert status == 1
    assert "RESOURCE_DENIED" in errors
    assert "layer 0 (sha256:" in errors
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["rsa", "ec"])
async def test_a_private_key_of_the_broker_opens_what_skopeo_encrypted(
    skopeo: Skopeo, place: Playground, source: Layout, tmp_path: Path, kind: str
) -> None:
    private, public = key_pair(tmp_path, kind)
    secret, status, errors = await skopeo.copy(source, "secret", "--encryption-key", f"jwe:{public}")
    assert status == 0, errors
    place.kbs.put("default/image/jwe", private)
    words = ("--jwe-key", "kbs:///default/image/jwe", "-s", place.hub_socket)
    status, _, errors = await image("decrypt", f"{secret.folder}:{oci.TAG}", tmp_path / "c", *words)
    assert (status, errors) == (0, "")
    assert Layout(tmp_path / "c").layers() == source.layers()
    assert Layout(tmp_path / "c").media_types() == source.media_types()


@pytest.mark.parametrize("kind", ["rsa", "ec"])
async def test_skopeo_opens_what_was_encrypted_for_a_private_key(
    skopeo: Skopeo, source: Layout, tmp_path: Path, kind: str
) -> None:
    private, public = key_pair(tmp_path, kind)
    (tmp_path / "private.pem").write_bytes(private)
    secret = await encrypt(source, tmp_path / "b", "--recipient", f"jwe:{public}")
    opened, status, errors = await skopeo.copy(
        secret, "opened", "--decryption-key", str(tmp_path / "private.pem")
    )
    assert (status, errors) == (0, "")
    assert opened.layers() == source.layers()


async def test_skopeo_opens_it_with_the_guest_s_key_provider(
    skopeo: Skopeo, source: Layout, tmp_path: Path
) -> None:
    secret = await encrypt(source, tmp_path / "b", "--random", tmp_path / "kek", "--kid", f"kbs:///{KEY}")
    async with playground(grpc="127.0.0.1:0") as place:
        place.kbs.put(KEY, (tmp_path / "kek").read_bytes())
        opened, status, errors = await skopeo.copy(
            secret,
            "opened",
            *("--decryption-key", "provider:attestation-agent"),
            environment=skopeo.providers(grpc=place.daemon.grpc_address),
        )
    assert (status, errors) == (0, "")
    assert opened.layers() == source.layers()


async def test_a_command_that_is_ended_removes_what_it_began(tmp_path: Path) -> None:
    source = oci.build(tmp_path / "source", [b""])
    # The only layer is a file without content on disk, so large that the command is at it when it is ended.
    manifest = source.manifest()
    size = 4 << 30
    hole = source.folder / "blobs" / "sha256" / ("0" * 64)
    with hole.open("wb") as file:
        file.truncate(size)
    manifest["layers"][0].update(digest="sha256:" + "0" * 64, size=size)
    source.set_manifest(manifest)
    (tmp_path / "kek").write_bytes(bytes(32))
    before = sorted(tmp_path.iterdir())
    words = ("encrypt", source.folder, tmp_path / "b", "--key", tmp_path / "kek", "--kid", f"kbs:///{KEY}")
    process = await asyncio.create_subprocess_exec(
        str(BIN / "coco-agent"), "image", *map(str, words), env=CLEAN_ENVIRONMENT
    )
    while sorted(tmp_path.iterdir()) == before:
        assert process.returncode is None
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 130
    assert sorted(tmp_path.iterdir()) == before
