"""``coco-agent info``."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

from agent import __version__, variant
from agent.cli import text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--sysroot", default="/", metavar="DIR", help="look below this folder (default: /)")


def run(arguments: Namespace) -> int:
    """Detect the platform and print every probe. Needs no running agent."""
    from agent.tee.platform import detect  # noqa: PLC0415  # keeps --help light

    found = detect(arguments.sysroot, os.environ, platform.machine())
    if arguments.json:
        text.print_json(
            {
                "version": __version__,
                **({"image": "development"} if variant.DEVELOPMENT else {}),
                "tee": found.tee,
                "possible": list(found.possible),
                "devices": list(found.devices),
                "trail": [{"tee": p.tee, "found": p.found, "reason": p.reason} for p in found.trail],
            }
        )
        return text.EXIT_OK
    print(f"coco-agent {__version__}")
    if variant.DEVELOPMENT:
        print(variant.WARNING)
    nothing = "none: this guest can prove nothing (see: coco-agent explain NO_TEE)"
    maybe = f"perhaps {' or '.join(found.possible)}, which this release cannot tell apart"
    print(f"TEE: {found.tee or (maybe if found.possible else nothing)}")
    print(f"devices: {', '.join(found.devices) or 'none'}\n")
    rows = [(probe.tee, "yes" if probe.found else "no", probe.reason) for probe in found.trail]
    print(text.table(rows, ("PROBE", "FOUND", "WHY")))
    return text.EXIT_OK
