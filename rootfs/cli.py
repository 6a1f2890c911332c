"""The command line of the builds."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rootfs import bundle, files, layout
from rootfs.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootfs.bundle import Options


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 when a build or check failed, 2 for wrong usage.
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = arguments.run
    try:
        run(arguments)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rootfs", description=__doc__, epilog="Each command explains itself: COMMAND --help"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    child = commands.add_parser(
        "bundle",
        help="interpreter, packages and programs as one folder that needs glibc only",
        description="Build the self-contained folder that goes into a guest. Its programs look for their "
        "interpreter below --prefix.",
        epilog="example:\n  python -m rootfs bundle --into build/root --prefix ''",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _common(child)
    child.add_argument(
        "--into", type=Path, default=Path("build/bundle"), metavar="FOLDER", help="(default: %(default)s)"
    )
    child.add_argument(
        "--prefix",
        default=layout.EXTENSION_ROOT,
        metavar="PATH",
        help="where the folder will be in the guest; '' for a root file system (default: %(default)s)",
    )
    child.set_defaults(run=_bundle)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=Path, default=bundle.CACHE, metavar="FOLDER", help="downloads (default: build/cache)"
    )
    parser.add_argument(
        "--optimize", type=int, choices=(0, 1, 2), default=bundle.OPTIMIZE, help=argparse.SUPPRESS
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _bundle(arguments: argparse.Namespace) -> None:
    into = arguments.into.resolve()
    bundle.clear(into)
    contents = bundle.build(_options(arguments, into, arguments.prefix))
    size = files.size(into)
    if arguments.json:
        print(
            json.dumps(
                {
                    "folder": str(into),
                    "bytes": size,
                    "debian": len(contents.debian),
                    "python": len(contents.python),
                }
            )
        )
    else:
        print(f"{into}: {size / 2**20:.1f} MiB")


def _options(arguments: argparse.Namespace, into: Path, prefix: str) -> Options:
    return bundle.Options(
        into=into, prefix=prefix, cache=arguments.cache.resolve(), optimize=arguments.optimize, say=progress()
    )


def progress() -> Callable[[str], None]:
    """A line on standard error for each step, with the seconds since the start."""
    begin = time.monotonic()

    def say(step: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {step}", file=sys.stderr, flush=True)

    return say
