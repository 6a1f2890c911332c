"""``coco-agent inspect``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from agent.cli.inspection.document import Context


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "file", metavar="FILE", help="report, quote, event log or evidence JSON, or - for standard input"
    )
    parser.add_argument(
        "--chain",
        metavar="FILE",
        action="append",
        help="certificates not in FILE: PEM, one in DER, or a host's certificate table; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> int:
    """Print what the file holds and whether it verifies. Needs no running agent, no TEE and no network.

    Returns:
        0; 1 when a check failed, so not for one that could not be made.
    """
    from agent.cli.inspection.recognise import recognise  # noqa: PLC0415  # keeps --help light

    content = connect.read_input(arguments.file, limits.INSPECT_MAX)
    context = _context(arguments.chain)
    try:
        found = recognise(content, context)
    except AgentError as error:
        if error.code is not ErrorCode.EVIDENCE_MALFORMED:
            raise
        return _broken(error, as_json=arguments.json)
    if found is None:
        return _unknown(content, as_json=arguments.json)
    if arguments.json:
        text.print_json(found.as_json())
    else:
        print(found.as_text(colour=text.colourful()))
        if not arguments.chain and found.lacks_certificates():
            print("\nnext: give the certificates that are missing with --chain FILE.")
        if found.failed():
            print("\nAt least one check FAILED: do not trust this evidence.", file=sys.stderr)
    return text.EXIT_FAILED if found.failed() else text.EXIT_OK


def _broken(error: AgentError, *, as_json: bool) -> int:
    from agent.cli.inspection.document import plain  # noqa: PLC0415

    step = "The file is cut, damaged or not what it looks like; compare its size with what the device wrote."
    if as_json:
        found = {"kind": "malformed", "failed": True, "code": error.code.name, "detail": error.detail}
        text.print_json({**found, "next": step})
    else:
        print(f"error: {error.code.name}: {error.message}", file=sys.stderr)
        print(f"  cause: {plain(error.detail)}\n  next:  {step}", file=sys.stderr)
    return text.EXIT_FAILED


def _unknown(content: bytes, *, as_json: bool) -> int:
    from agent.cli.inspection.recognise import KNOWN, next_step  # noqa: PLC0415

    step = next_step(content)
    if as_json:
        text.print_json({"kind": None, "failed": True, "known": list(KNOWN), "next": step})
    else:
        print(f"error: these {len(content)} bytes are not recognised. Known are:", file=sys.stderr)
        print("\n".join(f"  - {name}" for name in KNOWN), file=sys.stderr)
        print(f"  next: {step}", file=sys.stderr)
    return text.EXIT_FAILED


def _context(names: list[str] | None) -> Context:
    from msgspec.structs import replace  # noqa: PLC0415

    from agent.cli.inspection.document import Context  # noqa: PLC0415
    from agent.tee.evidence.verdict import VENDOR  # noqa: PLC0415

    if not names:
        return Context()
    found = [der for name in names for der in _chain(connect.read_input(name, limits.INSPECT_CHAIN_MAX))]
    ders = tuple(dict.fromkeys(found))
    return Context(replace(VENDOR, certificates=ders), ders, _pem(ders))


def _chain(content: bytes) -> tuple[bytes, ...]:
    from agent.config import pem  # noqa: PLC0415
    from agent.tee.evidence import certs  # noqa: PLC0415

    if pem.is_pem(content):
        return tuple(certs.der(each) for each in certs.load_pem_chain(content))
    return _binary_chain(content)


def _binary_chain(content: bytes) -> tuple[bytes, ...]:
    """One certificate in DER, or the certificates of a host's table."""
    from agent.tee.evidence import certs  # noqa: PLC0415
    from agent.tee.evidence.snp import parse_certificates  # noqa: PLC0415

    if content.startswith(b"\x30"):
        return (certs.der(certs.load_der(content)),)
    wanted = {"VCEK", "VLEK", "ASK", "ARK"}
    return tuple(each.data for each in parse_certificates(content) if each.kind in wanted)


def _pem(ders: tuple[bytes, ...]) -> bytes:
    import ssl  # noqa: PLC0415

    return "".join(ssl.DER_cert_to_PEM_cert(each) for each in ders).encode()
