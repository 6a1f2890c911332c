"""A file of every kind that ``coco-agent inspect`` knows and that can be made here."""

from __future__ import annotations

import base64
import json

from cryptography.hazmat.primitives.asymmetric import ec

from agent.kbs.handshake import Challenge, build_attestation, device_report_data, primary_report_data
from agent.tee.evidence.events import TERMINATOR, encode_event
from tests.unit.tee.evidence.forge import Forge, Gpu, gpu_chain
from tests.unit.tee.evidence.test_encodings import token
from tests.unit.tee.evidence.test_tdreport import made

TD15 = bytes(range(256)) * 2 + bytes(136)
GPU_KEY = ec.generate_private_key(ec.SECP384R1())
GPU_CHAIN, _ = gpu_chain(GPU_KEY)
HEADER = bytes(4) + b"\x03\0\0\0" + bytes(20) + b"\x25\0\0\0" + bytes(24) + b"\x02\0\0\0"
HEADER += b"\x0c\0\x30\0\x12\0\x20\0\0"
ENTRY = encode_event(4, "sha384", "domain", "operation", "content")
LOG = HEADER + ENTRY + TERMINATOR


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sample(report_data: bytes) -> dict[str, str]:
    return {"svn": "1", "report_data": b64(report_data)}


def attestation(**changed: str) -> bytes:
    """The body of a guest with a sample TEE and a sample device."""
    jwk = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "eA", "y": "eQ"}
    challenge = Challenge("bm9uY2U=")
    device = sample(device_report_data(challenge, jwk))
    additional = json.dumps({"sampledevice": device}, separators=(",", ":")).encode()
    primary = json.dumps(sample(primary_report_data(challenge, jwk, additional))).encode()
    body = json.loads(build_attestation(challenge, jwk, primary, additional, None))
    body["runtime-data"] |= changed
    return json.dumps(body).encode()


def csv(*, extended: bool) -> dict[str, object]:
    data = bytearray(range(256)) * 16
    mask = data[188:192] * 47
    if not extended:
        data[:188] = bytes(a ^ b for a, b in zip(data[:188], mask, strict=True))
    magic = b"ATTESTATION_EXT\0" if extended else bytes(16)
    report = {"magic": list(magic), "flags": 3, "data": list(data)}
    return {
        "attestation_report": report,
        "cert_chain": {"pek": {}},
        "serial_number": list(b"KPA1".ljust(64, b"\0")),
        "cc_eventlog": None,
    }


def dcu() -> dict[str, object]:
    body = {
        "version": 1,
        "chip_id": [1] * 16,
        "user_data": [2] * 64,
        "measure": [3] * 32,
        "reserved": [0] * 128,
    }
    return {"attestation_reports": [{"body": body, "sig": {"r": [0] * 72, "s": [0] * 72}}]}


def se() -> dict[str, str]:
    names = ("measurement", "additional_data", "user_data", "cuid", "encr_measurement_key", "image_hdr_tags")
    return {name: b64(name.encode()) for name in names}


def nvidia(report: str) -> dict[str, object]:
    device = {"arch": "HOPPER", "uuid": "unknown", "evidence": report, "certificate": b64(GPU_CHAIN)}
    return {"device_evidence_list": [device]}


def made_files() -> dict[str, bytes]:
    """A file of every kind that can be made here, by the kind it must be recognised as."""
    report, quote = Gpu(GPU_KEY).report(), Forge().quote(TD15, version=5, body_type=3)
    jsons: dict[str, object] = {
        "nvidia-evidence": nvidia(b64(report)),
        "hygondcu-evidence": dcu(),
        "csv-evidence": csv(extended=True),
        "cca-evidence": {"token": list(token())},
        "se-evidence": se(),
        "sample-evidence": sample(b"x"),
        "tdx-evidence": {"quote": b64(quote), "cc_eventlog": b64(LOG)},
        "composite-evidence": {
            "tdx": {"quote": b64(quote), "cc_eventlog": None},
            "nvidia": nvidia(report.hex()),
        },
    }
    return {
        "tdx-quote": quote,
        "tdreport": made(),
        "spdm-report": report,
        "cca-token": token(),
        "event-log": LOG,
        "runtime-event-log": ENTRY * 2,
        "kbs-attestation": attestation(),
        **{kind: json.dumps(value).encode() for kind, value in jsons.items()},
    }


FILES = made_files()
