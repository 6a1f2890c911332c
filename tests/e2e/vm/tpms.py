"""TPMs: swtpm on the host as the machine's chip, and the contents of one that plays Azure's in the guest."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AK_HANDLE: Final = 0x81010002
AZURE_AK_HANDLE: Final = 0x81000003
REPORT_INDEX: Final = 0x01400001

_SIGNING: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|noda"


@contextmanager
def chip(state: Path, control: Path) -> Iterator[None]:
    """A TPM for QEMU, which starts and ends it by its control channel."""
    with _swtpm(state, control, "--ctrl", f"type=unixio,path={control}"):
        yield


def provision(state: Path) -> None:
    """A TPM with an RSA attestation key at the handle the agent looks at."""
    with _tools(state) as tool:
        _attestation_key(tool, AK_HANDLE, state)


def provision_azure(state: Path, hardware: Callable[[bytes], bytes], kind: int, user_data: bytes) -> None:
    """A TPM as Azure's paravisor leaves it when it has renewed its report over ``user_data``.

    Args:
        state: swtpm's folder.
        hardware: makes the SNP report or TDREPORT over 64 bytes of report data.
        kind: 2 for an SNP report, 4 for a TDREPORT.
        user_data: what a guest asks a report for, at most 64 bytes.
    """
    with _tools(state) as tool:
        key = _attestation_key(tool, AZURE_AK_HANDLE, state)
        report = _azure_report(key, hardware, kind, user_data)
        (state / "report").write_bytes(report)
        index = f"{REPORT_INDEX:#x}"
        tool("nvdefine", index, "-C", "o", "-s", str(len(report)), "-a", "ownerread|ownerwrite")
        tool("nvwrite", index, "-C", "o", "-i", str(state / "report"))


def _azure_report(
    key: rsa.RSAPublicKey, hardware: Callable[[bytes], bytes], kind: int, user_data: bytes
) -> bytes:
    """Azure's report (attesters.md 5.3), short: an index of swtpm has 2048 bytes at most."""

    def number(value: int) -> str:
        data = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    public = key.public_numbers()
    ak = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": number(public.e), "n": number(public.n)}
    data = user_data.ljust(64, b"\0").hex().upper()
    document = {"keys": [ak], "vm-configuration": {"secure-boot": True}, "user-data": data}
    variable = json.dumps(document).encode()
    report = hardware(hashlib.sha256(variable).digest().ljust(64, b"\0")).ljust(1184, b"\0")
    size = 20 + len(variable)
    head = b"HCLA" + struct.pack("<7I", 2, 32 + len(report) + size, 2, 0, 0, 0, 0)
    return head + report + struct.pack("<5I", size, 1, kind, 1, len(variable)) + variable


def _attestation_key(tool: Callable[..., None], handle: int, folder: Path) -> rsa.RSAPublicKey:
    context, public = folder / "ak.ctx", folder / "ak.pem"
    algorithm = ("-G", "rsa2048:rsassa-sha256:null", "-a", _SIGNING)
    tool("createprimary", "-Q", "-C", "o", *algorithm, "-c", str(context))
    tool("readpublic", "-Q", "-c", str(context), "-f", "pem", "-o", str(public))
    tool("evictcontrol", "-Q", "-C", "o", "-c", str(context), f"{handle:#x}")
    key = load_pem_public_key(public.read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    return key


@contextmanager
def _tools(state: Path) -> Iterator[Callable[..., None]]:
    state.mkdir()
    data = state / "socket"
    addresses = ("--server", f"type=unixio,path={data}", "--ctrl", f"type=unixio,path={data}.ctrl")

    def tool(name: str, *arguments: str) -> None:
        command = [f"tpm2_{name}", *arguments]
        environ = {**os.environ, "TPM2TOOLS_TCTI": f"swtpm:path={data}"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
        assert not done.returncode, f"{command}: {done.stderr}"

    with _swtpm(state, data, *addresses, "--flags", "not-need-init,startup-clear"):
        yield tool
        # Written to disk when the TPM is told so, not when its program ends.
        tool("shutdown")


@contextmanager
def _swtpm(state: Path, listening: Path, *arguments: str) -> Iterator[None]:
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", *arguments]
    with (state / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while not listening.exists():
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < end, "swtpm does not answer"
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()
