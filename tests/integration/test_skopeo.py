"""A real skopeo: images encrypted with our key provider, decrypted after attestation."""

from __future__ import annotations

import base64
import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.devkit.playground import playground
from tests.integration import oci
from tests.integration.support import BIN, program, run, visible
from tests.integration.test_programs import free_port, until_listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from agent.devkit.playground import Playground
    from tests.integration.oci import Layout, Skopeo

pytestmark = pytest.mark.integration

KEY = "default/image/key1"
PROVIDER = "provider:attestation-agent"
CONTENTS = [b"first layer\n" * 20_000, os.urandom(200_000), b""]


@pytest.fixture
async def skopeo(tmp_path: Path) -> Skopeo:
    return await oci.find_skopeo(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    return oci.build(tmp_path / "source", CONTENTS)


@pytest.fixture
async def place() -> AsyncIterator[Playground]:
    async with playground(grpc="127.0.0.1:0") as running:
        yield running


@pytest.fixture
def admin(tmp_path: Path) -> Path:
    file = tmp_path / "admin.pem"
    file.write_bytes(pem(Ed25519PrivateKey.generate()))
    return file


def pem(key: Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@asynccontextmanager
async def owner(tmp_path: Path, *options: str) -> AsyncIterator[str]:
    """The image owner's key provider, as a program; its address for skopeo."""
    socket = tmp_path / "owner.sock"
    async with program(
        tmp_path, "coco-agent", "keyprovider", "--socket", f"unix://{socket}", *options
    ) as running:
        await visible(socket, running)
        yield f"unix://{socket}"
    assert running.process.returncode == 0
    assert not socket.exists()


def guest(skopeo: Skopeo, place: Playground) -> Mapping[str, str]:
    return skopeo.providers(grpc=place.daemon.grpc_address)


async def encrypted(
    skopeo: Skopeo, source: Layout, address: str, parameters: str = f"keyid=kbs:///{KEY}"
) -> Layout:
    layout, status, errors = await skopeo.copy(
        source,
        f"encrypted-{os.urandom(3).hex()}",
        *("--encryption-key", f"{PROVIDER}:{parameters}"),
        environment=skopeo.providers(grpc=address),
    )
    assert status == 0, errors
    assert layout.media_types() == {f"{oci.GZIP}+encrypted"}
    assert not set(layout.layers()) & set(source.layers())
    return layout


async def decrypt(
    skopeo: Skopeo, layout: Layout, environment: Mapping[str, str], target: str = "decrypted"
) -> tuple[Layout, int, str]:
    return await skopeo.copy(layout, target, "--decryption-key", PROVIDER, environment=environment)


async def refused(skopeo: Skopeo, layout: Layout, environment: Mapping[str, str]) -> str:
    """What skopeo says; it must have made no image."""
    made, status, errors = await decrypt(skopeo, layout, environment, "refused")
    assert status != 0
    assert not made.complete()
    return errors


# --- the whole way ---------------------------------------------------------------------------------
async def test_a_random_key_registered_at_the_kbs_opens_every_layer(
    skopeo: Skopeo, source: Layout, place: Playground, tmp_path: Path, admin: Path
) -> None:
    async with owner(tmp_path, "--kbs", place.kbs.url, "--auth-private-key", str(admin)) as address:
        image = await encrypted(skopeo, source, address)
    uploads = [seen for seen in place.kbs.seen if seen.method == "POST" and KEY in seen.target]
    assert len(uploads) == len(CONTENTS)
    assert all(seen.bearer for seen in uploads)
    assert place.kbs.counters["attest"] == 0
    opened, status, errors = await decrypt(skopeo, image, guest(skopeo, place))
    assert (status, errors) == (0, "")
    assert opened.layers() == source.layers()
    assert opened.media_types() == {oci.GZIP}
    assert place.kbs.counters["attest"] == 1


@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
async def test_a_key_of_the_owner_that_was_uploaded_before(
    skopeo: Skopeo, source: Layout, place: Playground, tmp_path: Path, algorithm: str
) -> None:
    key = tmp_path / "key.bin"
    key.write_bytes(os.urandom(32))
    place.kbs.put(KEY, key.read_bytes())
    parameters = f"keyid=kbs://kbs.example:8080/{KEY}::keypath={key}::algorithm={algorithm}"
    port = free_port()
    arguments = ("keyprovider", "--socket", f"127.0.0.1:{port}")
    async with program(tmp_path, "coco-agent", *arguments):
        await until_listening(port)
        image = await encrypted(skopeo, source, f"127.0.0.1:{port}", parameters)
    packet = json.loads(base64.b64decode(image.manifest()["layers"][0]["annotations"][oci.PROVIDER_KEYS]))
    assert (packet["kid"], packet["wrap_type"]) == (f"kbs:///{KEY}", algorithm)
    opened, status, errors = await decrypt(skopeo, image, guest(skopeo, place))
    assert (status, errors) == (0, "")
    assert opened.layers() == source.layers()


async def test_the_guests_key_provider_on_a_unix_socket(
    skopeo: Skopeo, source: Layout, tmp_path: Path
) -> None:
    async with playground(grpc=f"unix://{tmp_path}/guest.sock") as place:
        async with owner(tmp_path, "--kbs", place.kbs.url) as address:
            image = await encrypted(skopeo, source, address)
        environment = skopeo.providers(grpc=f"unix://{tmp_path}/guest.sock")
        opened, status, errors = await decrypt(skopeo, image, environment)
    assert (status, errors) == (0, "")
    assert opened.layers() == source.layers()
    assert not (tmp_path / "guest.sock").exists()


async def test_the_cmd_protocol_both_ways(
    skopeo: Skopeo, source: Layout, place: Playground, tmp_path: Path
) -> None:
    (tmp_path / "key.bin").write_bytes(os.urandom(32))
    words = ["keyprovider", "--once", "--kbs", place.kbs.url, "--hub-socket", place.hub_socket]
    environment = skopeo.providers(cmd={"path": str(BIN / "coco-agent"), "args": words})
    parameters = f"keyid=/{KEY}::keypath={tmp_path}/key.bin"
    image, status, errors = await skopeo.copy(
        source, "encrypted", "--encryption-key", f"{PROVIDER}:{parameters}", environment=environment
    )
    assert status == 0, errors
    assert not set(image.layers()) & set(source.layers())
    opened, status, errors = await decrypt(skopeo, image, environment)
    assert status == 0, errors
    assert opened.layers() == source.layers()


@pytest.mark.parametrize("kind", ["rsa", "ec"])
async def test_a_plain_jwe_image_opens_with_the_private_key_that_the_kbs_releases(
    skopeo: Skopeo, source: Layout, place: Playground, tmp_path: Path, kind: str
) -> None:
    private = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "public.pem").write_bytes(public)
    place.kbs.put("default/image/jwe", pem(private))
    image, status, errors = await skopeo.copy(
        source, "encrypted", "--encryption-key", f"jwe:{tmp_path}/public.pem"
    )
    assert status == 0, errors
    key = tmp_path / "released.pem"
    status, released, errors = await run(
        "coco-agent", "get", "kbs:///default/image/jwe", "--socket", place.hub_socket
    )
    assert status == 0, errors
    key.write_bytes(released)
    opened, status, errors = await skopeo.copy(image, "decrypted", "--decryption-key", str(key))
    assert (status, errors) == (0, "")
    assert opened.layers() == source.layers()


# --- what must fail --------------------------------------------------------------------------------
async def test_a_policy_that_denies_is_named_by_skopeo(
    skopeo: Skopeo, source: Layout, place: Playground, tmp_path: Path
) -> None:
    async with owner(tmp_path, "--kbs", place.kbs.url) as address:
        image = await encrypted(skopeo, source, address)
    place.kbs.deny("default/image/*")
    errors = await refused(skopeo, image, guest(skopeo, place))
    assert "RESOURCE_DENIED" in errors
    assert "PermissionDenied" in errors
    place.kbs.policy.clear()
    opened, status, _ = await decrypt(skopeo, image, guest(skopeo, place))
    assert status == 0
    assert opened.layers() == source.layers()


async def test_another_key_under_the_name_does_not_open_it(
    skopeo: Skopeo, source: Layout, place: Playground, tmp_path: Path
) -> None:
    async with owner(tmp_path, "--kbs", place.kbs.url) as address:
        gcm = await encrypted(skopeo, source, address)
        ctr = await encrypted(skopeo, source, address, f"keyid=kbs:///{KEY}::algorithm=A256CTR")
    place.kbs.put(KEY, bytes(32))
    for image in (gcm, ctr):
        assert "IMAGE_KEY_UNWRAP_FAILED" in await refused(skopeo, image, guest(skopeo, place))
    place.kbs.put(KEY, bytes(31))
    assert "IMAGE_KEY_UNWRAP_FAILED" in await refused(skopeo, gcm, guest(skopeo, place))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("wrapped_data", None), "IMAGE_KEY_UNWRAP_FAILED"),
        (("iv", None), "IMAGE_KEY_UNWRAP_FAILED"),
        (("wrap_type", "A256CTR"), "IMAGE_KEY_MALFORMED"),
        (("wrap_type", "A128GCM"), "IMAGE_KEY_MALFORMED"),
        (("kid", "kbs:///default/image/other"), "RESOURCE_NOT_FOUND"),
        (("kid", "/default/image-kek/1"), "IMAGE_KEY_MALFORMED"),
        (("version", "0.2.0"), "IMAGE_KEY_UNSUPPORTED"),
    ],
)
async def test_a_changed_annotation_has_its_code(
    skopeo: Skopeo, tmp_path: Path, place: Playground, change: tuple[str, str | None], code: str
) -> None:
    member, value = change
    source = oci.build(tmp_path / "source", [b"one layer"])
    async with owner(tmp_path, "--kbs", place.kbs.url) as address:
        image = await encrypted(skopeo, source, address)
    manifest = image.manifest()
    annotations = manifest["layers"][0]["annotations"]
    packet = json.loads(base64.b64decode(annotations[oci.PROVIDER_KEYS]))
    if value is None:
        data = bytearray(base64.b64decode(packet[member]))
        data[3] ^= 1
        value = base64.b64encode(data).decode()
    packet[member] = value
    annotations[oci.PROVIDER_KEYS] = base64.b64encode(json.dumps(packet).encode()).decode()
    image.set_manifest(manifest)
    assert code in await refused(skopeo, image, guest(skopeo, place))


async def test_a_kbs_that_refuses_the_upload_stops_the_encryption(
    skopeo: Skopeo, source: Layout, place: Playground, tmp_path: Path, admin: Path
) -> None:
    place.kbs.broker.admin_open = False
    async with owner(tmp_path, "--kbs", place.kbs.url, "--auth-private-key", str(admin)) as address:
        made, status, errors = await skopeo.copy(
            source,
            "encrypted",
            *("--encryption-key", f"{PROVIDER}:keyid=kbs:///{KEY}"),
            environment=skopeo.providers(grpc=address),
        )
    assert status != 0
    assert "KBS_ADMIN_REQUIRED" in errors
    assert not made.complete()


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (f"keyid=kbs:///{KEY}", "needs --kbs"),
        ("sample=true", "SAMPLE_REFUSED"),
        ("keyid=default/image", "INVALID_URI"),
        (f"keyid=kbs:///{KEY}::keypath=/nonexistent", "cannot be read"),
        ("algorithm=A256GCM", "keyid is needed"),
        ("Enabled", "parameters are"),
    ],
)
async def test_the_owner_reads_in_skopeos_output_what_is_wrong(
    skopeo: Skopeo, source: Layout, tmp_path: Path, parameters: str, told: str
) -> None:
    async with owner(tmp_path) as address:
        made, status, errors = await skopeo.copy(
            source,
            "encrypted",
            *("--encryption-key", f"{PROVIDER}:{parameters}"),
            environment=skopeo.providers(grpc=address),
        )
    assert status != 0
    assert told in errors
    assert not made.complete()
