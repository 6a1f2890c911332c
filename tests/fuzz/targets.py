"""Every parser of evidence by name, and inputs to start from. Parsers are imported when they are used."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE: Final = "agent.tee.evidence"
FOLDER: Final = Path(
    os.environ.get("EVIDENCE_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)

Parse: TypeAlias = "Callable[[bytes], object]"
Seed: TypeAlias = "str | bytes | Callable[[], bytes]"


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: for the command line.
        module: below the package.
        parse: a function of that module, or a function of the module that gives such a function.
        seeds: recordings by name, bytes, or functions that make them.
    """

    name: str
    module: str
    parse: str | Callable[[Any], Parse]
    seeds: tuple[Seed, ...] = ()
    package: str = PACKAGE

    def load(self) -> Parse | None:
        """The parser; None when this release has no such module."""
        if importlib.util.find_spec(f"{self.package}.{self.module}") is None:
            return None
        module = importlib.import_module(f"{self.package}.{self.module}")
        if callable(self.parse):
            return self.parse(module)
        parse: Parse = getattr(module, self.parse)
        return parse

    def inputs(self) -> list[bytes]:
        """Valid inputs, as far as recordings are at hand."""
        found: list[bytes] = []
        for seed in self.seeds:
            try:
                found.append(seed if isinstance(seed, bytes) else _read(seed))
            except FileNotFoundError:
                continue
        return found


def _read(seed: str | Callable[[], bytes]) -> bytes:
    return seed() if callable(seed) else (FOLDER / seed).read_bytes()


def _hexadecimal(name: str) -> Callable[[], bytes]:
    return lambda: bytes.fromhex((FOLDER / name).read_text())


def _member(name: str, *path: str) -> Callable[[], bytes]:
    def read() -> bytes:
        value = json.loads((FOLDER / name).read_bytes())
        for step in path:
            value = value[step]
        return bytes.fromhex(value)

    return read


def _table() -> bytes:
    kinds = (
        "63da758d-e664-4564-adc5-f4b93be8accd",
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",
        str(uuid.UUID(int=1)),
    )
    entries = b"".join(
        uuid.UUID(kind).bytes + struct.pack("<II", 96 + 100 * at, 100) for at, kind in enumerate(kinds)
    )
    return entries + bytes(24) + bytes(range(100)) * 3


def _report(version: int, family: int, model: int) -> bytes:
    data = bytearray(b"\1" * 1184)
    data[:4] = version.to_bytes(4, "little")
    data[0x188:0x18B] = bytes([family, model, 1])
    return bytes(data)


def _snp_evidence(snp_json: Any) -> Parse:
    def both_ways(data: bytes) -> object:
        report, certificates = snp_json.decode(data)
        again, same = snp_json.decode(snp_json.encode(report, certificates))
        assert (again, same) == (report, certificates), "JSON does not come back"
        return report

    return both_ways


def _snp_checks(snp_chain: Any) -> Parse:
    from agent.tee.evidence.snp import parse_report  # noqa: PLC0415 - see load
    from agent.tee.evidence.verdict import VENDOR  # noqa: PLC0415

    return lambda data: snp_chain.verify(parse_report(data[:1184]), [data[1184:]], VENDOR)


def _quote_checks(quote_chain: Any) -> Parse:
    from agent.tee.evidence.quote import parse_quote  # noqa: PLC0415
    from agent.tee.evidence.verdict import VENDOR  # noqa: PLC0415

    return lambda data: quote_chain.verify(parse_quote(data), VENDOR)


def _certificate(certs: Any) -> Parse:
    def look(data: bytes) -> object:
        found = certs.load_pem_chain(data) if data.startswith(b"-") else (certs.load_der(data),)
        for each in found:
            certs.name(each)
            certs.issuer_name(each)
            certs.is_authority(each)
            certs.path(each, found, frozenset({bytes(32)}))
        return found

    return look


def _replay(events: Any) -> Parse:
    return lambda data: events.replay(events.parse_log(data), "sha384")


_AZURE: Final = ("az-snp-vtpm", "az-tdx-vtpm")
_LOGS: Final = ("eventlog/CCEL_AAEL_alibabacloud", "eventlog/CCEL_data_ovmf")
_QUOTES: Final = (
    "tdx/tdx_quote_4.dat",
    "tdx/tdx_quote_6.dat",
    "sgx/occlum_quote.dat",
    "az-tdx-vtpm/td-quote.bin",
)
_MESSAGES: Final = tuple(_member(f"{each}/tpm-quote-v1.json", "message") for each in _AZURE)

TARGETS: Final = (
    Target(
        "snp-report",
        "snp",
        "parse_report",
        ("snp/test-report.bin", "snp/test-vlek-report.bin", _report(5, 0x1A, 2), _report(2, 0, 0)),
    ),
    Target("snp-certificates", "snp", "parse_certificates", (_table(),)),
    Target("snp-json", "snp_json", _snp_evidence, ("snp/agent-evidence-genoa.json",)),
    Target(
        "snp-chain",
        "snp_chain",
        _snp_checks,
        (
            lambda: _read("snp/test-report.bin") + _read("snp/test-vcek.der"),
            lambda: _read("snp/test-vlek-report.bin") + _read("snp/test-vlek.der"),
        ),
    ),
    Target(
        "certificates",
        "certs",
        _certificate,
        ("snp/test-vcek.der", "snp/milan_ask_ark_asvk.pem", "nvidia/hopper_cert_chain_case1.txt"),
    ),
    Target("der", "der", "elements", ("snp/test-vcek.der",)),
    Target("quote", "quote", "parse_quote", _QUOTES),
    Target("quote-chain", "quote_chain", _quote_checks, _QUOTES),
    Target("tdreport", "tdreport", "parse_tdreport", ("tdx/tdx_report_1.bin",)),
    Target("spdm", "spdm", "parse", (_hexadecimal("nvidia/hopperAttestationReport.txt"),)),
    Target("event-log", "events", _replay, _LOGS),
    Target("tpm-attest", "tpm", "parse_attest", _MESSAGES),
    Target("tpm-signature", "tpm", "parse_signature", (b"\x00\x14\x00\x0b\x01\x00" + bytes(256),)),
    Target("tpm-json", "tpm_json", "decode", (b'{"quote":{"signature":"","message":"","pcrs":[]}}',)),
    Target("hcl", "hcl", "parse_hcl", tuple(f"{each}/hcl-report.bin" for each in _AZURE)),
    Target("azure-json", "az_json", "decode", tuple(f"{each}/evidence-v1.json" for each in _AZURE)),
    Target("cbor", "cbor", "decode", (bytes.fromhex("a20182010202426869"),)),
    Target("cca", "cca", "parse_cca", (bytes.fromhex("d9018fa219acca4401020304") + b"\x19\xac\xd1\x40",)),
)
