"""``coco-agent keyprovider``: registration at a broker, and its arguments."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.config.model import Kbs
from agent.devkit.kbs import DevKbs, Fault
from agent.devkit.kbs.faults import Kind
from agent.devkit.pki import Authority
from agent.errors import AgentError, ErrorCode
from agent.kbs.admin import Claims, ResourceWriter
from agent.secret import Secret
from tests.integration.raw_kbs import CLOCK, URI, RawServer, reply, soon
from tests.integration.support import run
from tests.unit.hub.test_image_keys import KEK, KID, REQUEST
from tests.unit.hub.test_image_wrap import b64, request

if TYPE_CHECKING:
    from pathlib import Path

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

KEY = Ed25519PrivateKey.generate()


async def put(url: str, key: Ed25519PrivateKey | None = KEY, **settings: object) -> ErrorCode | None:
    writer = ResourceWriter(Kbs(url=url, **settings), key, Claims(), CLOCK)  # type: ignore[arg-type]
    try:
        await writer.put(URI, Secret(KEK), soon())
    except AgentError as error:
        return error.code
    finally:
        await writer.close()
    return None


# --- registration ----------------------------------------------------------------------------------
async def test_an_upload_is_a_post_of_raw_bytes_with_a_token() -> None:
    server = RawServer(reply(b""))
    await server.start()
    assert await put(f"http://127.0.0.1:{server.port}/prefix/") is None
    await server.stop()
    head = server.heads[0].lower()
    assert head.startswith("post /prefix/kbs/v0/resource/default/key/1 http/1.1")
    assert "content-type: application/octet-stream" in head
    assert "authorization: bearer eyj" in head
    assert server.bodies == [KEK]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("201 Created", ErrorCode.KBS_BAD_RESPONSE),
        ("204 No Content", ErrorCode.KBS_BAD_RESPONSE),
        ("307 Temporary Redirect", ErrorCode.KBS_REDIRECT_REFUSED),
        ("404 Not Found", ErrorCode.KBS_BAD_RESPONSE),
        ("413 Content Too Large", ErrorCode.KBS_BAD_RESPONSE),
        ("500 Internal Server Error", ErrorCode.KBS_BUSY),
    ],
)
async def test_only_a_200_counts_as_stored(status: str, code: ErrorCode) -> None:
    server = RawServer(reply(b"", status, "Location: http://127.0.0.1:1/\r\n"))
    await server.start()
    assert await put(f"http://127.0.0.1:{server.port}") is code
    await server.stop()
    assert len(server.heads) == 1


async def test_a_brokers_refusals_have_their_codes() -> None:
    async with DevKbs() as kbs:
        assert await put(kbs.url, None) is None
        assert kbs.broker.repository.read("resource", URI.path) == KEK
        kbs.broker.admin_open = False
        assert await put(kbs.url) is ErrorCode.KBS_ADMIN_REQUIRED
        kbs.broker.admin_open = True
        kbs.faults.on("admin", Fault(Kind.PROBLEM, times=1))
        assert await put(kbs.url) is ErrorCode.KBS_BAD_RESPONSE
        kbs.faults.on("admin", Fault(Kind.BLACK_HOLE, times=1))
        assert await put(kbs.url, request_timeout=0.3) is ErrorCode.KBS_TIMEOUT
        kbs.faults.on("admin", Fault(Kind.RESET, times=1))
        assert await put(kbs.url) is ErrorCode.KBS_UNREACHABLE
        assert await put(kbs.url, require_tls=True) is ErrorCode.KBS_TLS_REQUIRED
    assert await put(kbs.url) is ErrorCode.KBS_UNREACHABLE


async def test_tls_is_verified() -> None:
    authority = Authority()
    async with DevKbs(tls=authority.issue("127.0.0.1").context()) as kbs:
        assert await put(kbs.url) is ErrorCode.KBS_TLS_FAILED
        assert await put(kbs.url, extra_roots=authority.pem, require_tls=True) is None


# --- the program -----------------------------------------------------------------------------------
@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key.bin"
    file.write_bytes(KEK)
    return file


async def once(stdin: bytes, *options: str) -> tuple[int, bytes, str]:
    return await run("coco-agent", "keyprovider", "--once", *options, stdin=stdin)


async def test_one_request_by_standard_input_and_output(place: Playground, key_file: Path) -> None:
    status, output, errors = await once(
        request([b64(f"keyid={KID}::keypath={key_file}")]), "--kbs", place.kbs.url
    )
    assert status == 0, errors
    assert f"with {KID} (A256GCM, registered)" in errors
    assert not [text for text in (KEK.hex(), b64(KEK), repr(KEK)) if text in errors]
    packet = bytes(json.loads(output)["keywrapresults"]["annotation"])
    assert json.loads(packet)["kid"] == KID
    body = json.dumps(
        {"op": "keyunwrap", "keywrapparams": {}, "keyunwrapparams": {"dc": None, "annotation": b64(packet)}}
    ).encode()
    status, output, errors = await once(body, "--hub-socket", place.hub_socket)
    assert status == 0, errors
    assert b"symkey" in bytes(json.loads(output)["keyunwrapresults"]["optsdata"])


@pytest.mark.parametrize(
    ("stdin", "options", "code"),
    [
        (b"not json", (), "INVALID_REQUEST"),
        (b" " * 300_000, (), "PAYLOAD_TOO_LARGE"),
        (request([b64(f"keyid={KID}")]), ("--kbs", "http://127.0.0.1:1"), "INVALID_REQUEST"),
        (request([b64("sample=true")]), (), "SAMPLE_REFUSED"),
        (request([b64(f"keyid={KID}::keypath=/dev/zero")]), (), "INVALID_REQUEST"),
        (REQUEST, ("--hub-socket", "unix:///nonexistent/hub.sock"), "ROLE_UNREACHABLE"),
    ],
)
async def test_a_refusal_is_one_on_standard_error(stdin: bytes, options: tuple[str, ...], code: str) -> None:
    status, output, errors = await once(stdin, *options)
    assert (status, output) == (1, b"")
    assert f"error: {code}: " in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--socket", "0.0.0.0:0"), "INVALID_REQUEST"),
        (("--socket", "192.0.2.1:50000"), "INVALID_REQUEST"),
        (("--kbs", "kbs.example"), "INVALID_REQUEST"),
        (("--kbs", "https://kbs.example", "--auth-private-key", "/nonexistent"), "INVALID_REQUEST"),
        (("--kbs", "https://kbs.example", "--auth-private-key", "/dev/null"), "INVALID_REQUEST"),
        (("--auth-private-key", "/dev/null"), "INVALID_REQUEST"),
    ],
)
async def test_arguments_that_cannot_work_end_it_at_once(options: tuple[str, ...], code: str) -> None:
    status, _, errors = await run("coco-agent", "keyprovider", *options)
    assert status == 1
    assert f"error: {code}: " in errors
    assert "cause: " in errors
    assert "config check" not in errors


async def test_a_fifo_for_a_key_does_not_hold_it_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    given = b64(f"keyid={KID}::keypath={tmp_path}/fifo")
    status, _, errors = await asyncio.wait_for(once(request([given])), 20)
    assert (status, "cannot be read" in errors) == (1, True)


async def test_keys_cross_a_network_by_tls_only(key_file: Path, tmp_path: Path) -> None:
    admin = tmp_path / "admin.pem"
    admin.write_bytes(KEY.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()))
    stdin = request([b64(f"keyid={KID}::keypath={key_file}")])
    status, _, errors = await once(stdin, "--kbs", "http://kbs.example", "-a", str(admin))
    assert (status, "KBS_TLS_REQUIRED" in errors) == (1, True)
