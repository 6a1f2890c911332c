"""``make demo``: the main job on real input, each step with its time.

A development KBS runs in this process and the agent runs as a program of its own, as in a guest. Resource,
sealed secret and image layer are made fresh, uploaded or encrypted here, and asked for by real clients.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from agent.clock import Deadline, SystemClock
from agent.devkit.kbs import DevKbs
from agent.hub.image_keys import wrap
from agent.hub.image_packets import build_protocol_input
from agent.hub.sealing import keygen, seal_vault
from agent.serve.ttrpc.remote import RemoteHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

RESOURCE = "default/db/password"
SIGNING_KEY = "default/signing-key/sealed-secret"
LAYER_KEY = "default/image-kek/1"
STEPS = 7


class DemoFailedError(Exception):
    """A step did not give what it should."""


class Material(msgspec.Struct, frozen=True):
    """What the demo encrypts, seals and uploads.

    Attributes:
        password: plaintext of the resource.
        sealed: a signed sealed secret that points at the resource.
        layer: plaintext of an image layer blob.
        cipher_layer: the layer as an encrypted image carries it.
        key_request: key provider protocol JSON, as image-rs sends it.
    """

    password: bytes
    sealed: str
    layer: bytes
    cipher_layer: bytes
    key_request: bytes


def prepare(kbs: DevKbs) -> Material:
    """Make the material and upload what belongs to the broker."""
    password = secrets.token_urlsafe(24).encode()
    kid = f"kbs:///{SIGNING_KEY}"
    private, public = keygen(kid)
    kek, symkey, nonce = secrets.token_bytes(32), secrets.token_bytes(32), secrets.token_bytes(16)
    layer = b"a container image layer\n" * 4096
    private_options = {
        "symkey": base64.b64encode(symkey).decode(),
        "digest": f"sha256:{hashlib.sha256(layer).hexdigest()}",
        "cipheroptions": {"nonce": base64.b64encode(nonce).decode()},
    }
    packet = wrap(json.dumps(private_options).encode(), kek, f"kbs:///{LAYER_KEY}")
    kbs.put(RESOURCE, password)
    kbs.put(SIGNING_KEY, public)
    kbs.put(LAYER_KEY, kek)
    return Material(
        password=password,
        sealed=seal_vault(f"kbs:///{RESOURCE}", kid, private.reveal()),
        layer=layer,
        cipher_layer=_aes_ctr(symkey, nonce, layer),
        key_request=build_protocol_input(packet),
    )


def _aes_ctr(key: bytes, nonce: bytes, data: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
    return cipher.update(data) + cipher.finalize()


def open_layer(answer: bytes, cipher_layer: bytes) -> bytes:
    """Decrypt the layer with the key provider's answer, as image-rs does."""
    options = json.loads(bytes(json.loads(answer)["keyunwrapresults"]["optsdata"]))
    return _aes_ctr(
        base64.b64decode(options["symkey"]),
        base64.b64decode(options["cipheroptions"]["nonce"]),
        cipher_layer,
    )


@asynccontextmanager
async def agent_program(folder: Path, kbs_url: str) -> AsyncIterator[str]:
    """Run ``coco-agent serve`` with sockets in ``folder``; yields the REST URL once all sockets listen."""
    (folder / "aa.toml").write_text(f'[token_configs.kbs]\nurl = "{kbs_url}"\n')
    (folder / "cdh.toml").write_text(
        f'socket = "unix://{folder}/cdh.sock"\n[kbc]\nname = "cc_kbc"\nurl = "{kbs_url}"\n'
    )
    (folder / "agent.toml").write_text(
        f'[attester]\nallow_sample = true\n[control]\nsocket = "unix://{folder}/control.sock"\n'
    )
    for file in folder.glob("*.toml"):
        file.chmod(0o600)
    port = _free_port()
    program = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("coco-agent")),
        "serve",
        *("--aa-config", str(folder / "aa.toml")),
        *("--cdh-config", str(folder / "cdh.toml")),
        *("--agent-config", str(folder / "agent.toml")),
        *("--attestation-sock", f"unix://{folder}/aa.sock"),
        *("--bind", f"127.0.0.1:{port}", "--features", "all"),
        stderr=(folder / "agent.log").open("wb"),
    )
    try:
        await _listening(program, folder, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        if program.returncode is None:
            program.terminate()
        await program.wait()


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def _listening(program: asyncio.subprocess.Process, folder: Path, port: int) -> None:
    for _ in range(1000):
        if program.returncode is not None:
            raise DemoFailedError(f"the agent ended early:\n{(folder / 'agent.log').read_text()}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
            continue
        writer.close()
        return
    raise DemoFailedError("the agent does not listen after 10 s")


async def curl(url: str, *options: str) -> tuple[int, bytes]:
    """Ask with the real curl; HTTP status and body."""
    program = await asyncio.create_subprocess_exec(
        "curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *options, url,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await program.communicate()
    if program.returncode != 0:
        raise DemoFailedError(f"curl ended with {program.returncode}")
    body, _, status = output.rpartition(b"\n")
    return int(status), body


def expect(what: str, *, holds: bool) -> None:
    """Stop the demo when a step's result is wrong."""
    if not holds:
        raise DemoFailedError(what)


class Printer:
    """Numbered steps with their time; ``quiet`` does them without a word."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._number = 0
        self._quiet = quiet

    async def step(self, text: str, work: Callable[[], Awaitable[str]]) -> None:
        """Do one step and print what it found and how long it took."""
        self._number += 1
        begin = time.perf_counter()
        found = await work()
        took = (time.perf_counter() - begin) * 1000
        if not self._quiet:
            print(f"[{self._number}/{STEPS}] {text:<58} {took:7.1f} ms   {found}", flush=True)


async def steps(rest: str, folder: Path, material: Material, printer: Printer) -> None:
    """Fetch everything through every API."""
    hub = RemoteHub(f"unix://{folder}/cdh.sock")
    soon = Deadline.after(SystemClock(), 30)
    resource_url = f"{rest}/cdh/resource/{RESOURCE}"

    async def rest_resource() -> str:
        status, body = await curl(resource_url)
        expect("REST resource", holds=status == 200 and body == material.password)
        return f"{len(body)} bytes, as uploaded"

    async def ttrpc_resource() -> str:
        secret = (await hub.get_resource(f"kbs:///{RESOURCE}", soon)).secret
        expect("ttrpc resource", holds=secret.reveal() == material.password)
        return f"{len(secret)} bytes, as uploaded"

    async def unseal() -> str:
        secret = await hub.unseal(material.sealed.encode(), soon)
        expect("unsealed secret", holds=secret.reveal() == material.password)
        return "signature verified, plaintext as uploaded"

    async def image_key() -> str:
        answer = await hub.unwrap_key(material.key_request, soon)
        layer = open_layer(answer.reveal(), material.cipher_layer)
        expect("layer", holds=hmac.compare_digest(layer, material.layer))
        return f"{len(layer)} byte layer decrypts"

    async def missing() -> str:
        status, body = await curl(f"{rest}/cdh/resource/default/no/such", "-H", "Accept: application/json")
        code = json.loads(body)["code"]
        expect("missing resource", holds=status == 404 and code == "RESOURCE_NOT_FOUND")
        return f"404 {code}, no attestation spent"

    try:
        await printer.step("REST (curl): resource, with the one attestation", rest_resource)
        await printer.step("ttrpc: GetResource", ttrpc_resource)
        await printer.step("ttrpc: UnsealSecret", unseal)
        await printer.step("ttrpc key provider: UnWrapKey, then decrypt the layer", image_key)
        await printer.step("REST (curl): a resource that does not exist", missing)
    finally:
        await hub.close()


async def demo() -> None:
    """The whole demo.

    Raises:
        DemoFailedError: a step went wrong.
    """
    if shutil.which("curl") is None:
        raise DemoFailedError("curl is missing. Run: sudo apt-get install curl")
    printer = Printer()
    with tempfile.TemporaryDirectory(prefix="coco-demo-") as name:
        folder = Path(name).resolve()
        kbs = DevKbs()

        async def start_kbs() -> str:
            await kbs.start()
            return kbs.url

        await printer.step("start a development KBS (sample evidence: proves nothing)", start_kbs)
        try:
            material = prepare(kbs)
            program = agent_program(folder, kbs.url)
            rest = ""

            async def start_agent() -> str:
                nonlocal rest
                rest = await program.__aenter__()
                return "three roles listen"

            await printer.step("start the agent: coco-agent serve", start_agent)
            try:
                await steps(rest, folder, material, printer)
            finally:
                await program.__aexit__(None, None, None)
            counters = kbs.counters
            expect("one attestation in all", holds=counters["auth"] == counters["attest"] == 1)
            print(
                f"\nKBS counters: auth {counters['auth']}, attest {counters['attest']}, "
                f"resource {counters['resource']}: one attestation in all.\n"
                "Stopped; nothing is left running. Next: .venv/bin/coco-agent dev, or dev --tee snp."
            )
        finally:
            await kbs.stop()


def main() -> int:
    """Run the demo; exit status."""
    print("coco-agent demo: attest once, then serve a resource, a sealed secret and an image layer key\n")
    try:
        asyncio.run(demo())
    except DemoFailedError as failure:
        print(f"demo failed: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
