"""A real OpenBao server on loopback with TLS, in memory, set up over its own API."""

from __future__ import annotations

import datetime
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.devkit.pki import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
PEM, PKCS8 = Encoding.PEM, PrivateFormat.PKCS8


def program() -> str:
    """The server's program; without one the test is skipped, but not in CI."""
    ours = ROOT / ".tools" / "bao"
    found = str(ours) if ours.exists() else shutil.which("bao") or shutil.which("vault")
    if found is None:
        reason = "no OpenBao or Vault server: scripts/openbao .tools"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def client_pem(authority: Authority) -> bytes:
    """A client certificate of ``authority`` and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "guest.test")]))
        .issuer_name(authority.cert.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority._key.public_key()), critical=False
        )
        .sign(authority._key, hashes.SHA256())
    )
    return cert.public_bytes(PEM) + key.private_bytes(PEM, PKCS8, NoEncryption())


def ask(  # noqa: PLR0917  # who, with what, and the request
    url: str, authority: Authority, token: str, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    """One request to a server: status, and the answer's JSON."""
    context = ssl.create_default_context(cadata=authority.pem)
    connection = http.client.HTTPSConnection(url.removeprefix("https://"), timeout=10, context=context)
    try:
        headers = {"X-Vault-Request": "true", "X-Vault-Token": token}
        connection.request(method, f"/v1/{path}", None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


@dataclass
class Bao:
    """A running server and its administrator."""

    port: int
    authority: Authority
    clients: Authority
    root: str = ""
    unseal_key: str = ""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """One request, of the administrator unless another token is given."""
        return ask(self.url, self.authority, self.root if token is None else token, method, path, body)

    def does(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.ask(method, path, body)
        assert status in {200, 204}, (path, status, answer)
        return answer

    def token(self, *policies: str, **settings: Any) -> str:
        """A new token without parents."""
        body = {"policies": list(policies), "no_parent": True, **settings}
        return str(self.does("POST", "auth/token/create", body)["auth"]["client_token"])

    def unseal(self) -> None:
        self.does("PUT", "sys/unseal", {"key": self.unseal_key})
        # Unsealed comes before active.
        _until(lambda: self.ask("GET", "sys/health")[0] == 200, "the server to become active")

    def _set_up(self) -> None:
        made = self.does("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.unseal_key, self.root = made["keys"][0], made["root_token"]
        self.unseal()
        self.does("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        self.does("POST", "sys/mounts/team/kv", {"type": "kv", "options": {"version": "2"}})
        self.does("POST", "sys/mounts/transit", {"type": "transit"})
        self.does("POST", "sys/auth/cert", {"type": "cert"})
        for mount in ("secret", "team/kv"):
            self.when_ready(mount)

    def when_ready(self, mount: str) -> None:
        """Wait for a new mount of KV version 2; it answers 400 until its upgrade is done."""
        _until(lambda: self.ask("GET", f"{mount}/config")[0] == 200, f"{mount} to be upgraded")


@contextmanager
def running(folder: Path) -> Iterator[Bao]:
    """Start a server with nothing but KV version 2, transit and certificate login; unsealed."""
    server_program = program()
    authority = Authority()
    server = authority.issue()
    (folder / "cert.pem").write_text(server.cert_pem)
    (folder / "key.pem").write_bytes(server.key.private_bytes(PEM, PKCS8, NoEncryption()))
    bao = Bao(_free_port(), authority, Authority("clients"))
    (folder / "config.hcl").write_text(
        'storage "inmem" {}\n'
        "disable_mlock = true\n"
        f'listener "tcp" {{\n  address = "127.0.0.1:{bao.port}"\n'
        f'  cluster_address = "127.0.0.1:{_free_port()}"\n'
        f'  tls_cert_file = "{folder}/cert.pem"\n  tls_key_file = "{folder}/key.pem"\n}}\n'
    )
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [server_program, "server", f"-config={folder}/config.hcl"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        )
    try:
        _until(lambda: _listens(bao, process), f"the server, see {folder}/server.log")
        bao._set_up()
        yield bao
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _listens(bao: Bao, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the server ended"
    try:
        return bao.ask("GET", "sys/init")[0] == 200
    except OSError:
        return False


def _until(reached: Any, what: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
