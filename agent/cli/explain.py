"""``coco-agent explain``."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING

from agent.cli import text
from agent.errors import ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("code", nargs="?", metavar="CODE", help="an error code; without one, list them all")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> int:
    """Print one code, or the list."""
    if arguments.code is None:
        if arguments.json:
            text.print_json([as_json(code) for code in ErrorCode])
        else:
            rows = [(code.name, code.meaning.fault.value, code.meaning.message) for code in ErrorCode]
            print(text.table(rows, ("CODE", "FAULT", "MESSAGE")))
        return text.EXIT_OK
    code = ErrorCode.__members__.get(arguments.code.upper().replace("-", "_"))
    if code is None:
        close = difflib.get_close_matches(arguments.code.upper(), ErrorCode.__members__, n=1)
        meant = f" Did you mean {close[0]}?" if close else " 'coco-agent explain' lists them."
        print(f"error: there is no code {arguments.code[:80]!r}.{meant}", file=sys.stderr)
        return text.EXIT_USAGE
    if arguments.json:
        text.print_json(as_json(code))
        return text.EXIT_OK
    meaning = code.meaning
    print(code.name)
    print(f"  what:   {meaning.message}")
    print(f"  fault:  {meaning.fault.value}")
    print(f"  next:   {meaning.hint}")
    print(f"  status: HTTP {meaning.rest}, RPC {meaning.rpc.name} ({meaning.rpc.value})")
    print(
        f"  retry:  {'can succeed later by itself' if meaning.retry else 'someone has to change something'}"
    )
    return text.EXIT_OK


def as_json(code: ErrorCode) -> dict[str, str | int | bool]:
    """One code for programs."""
    meaning = code.meaning
    return {
        "code": code.name,
        "message": meaning.message,
        "fault": meaning.fault.value,
        "hint": meaning.hint,
        "rest_status": meaning.rest,
        "rpc_code": meaning.rpc.value,
        "retry": meaning.retry,
    }


def reference() -> str:
    """docs/errors.md."""
    lines = [
        "# Error reference",
        "",
        "Generated from `agent/errors.py` (`make generate`). `coco-agent explain CODE` prints the same.",
        "",
        "REST callers that send `Accept: application/json` get the code as `code`; ttrpc messages and plain",
        "text answers end with it in brackets. *Retry* says whether waiting alone can help.",
    ]
    faults = dict.fromkeys(code.meaning.fault for code in ErrorCode)
    for fault in faults:
        lines += ["", f"## Fault of the {fault.value}"]
        for code in ErrorCode:
            meaning = code.meaning
            if meaning.fault is not fault:
                continue
            retry = "yes" if meaning.retry else "no"
            lines += [
                "",
                f"### {code.name}",
                "",
                f"{meaning.message}",
                "",
                f"HTTP {meaning.rest}, RPC {meaning.rpc.name} ({meaning.rpc.value}), retry: {retry}.",
                f"Next: {meaning.hint}",
            ]
    return "\n".join(lines) + "\n"
