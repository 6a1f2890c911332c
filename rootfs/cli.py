"""Build what goes into a guest: the programs, Kata's "coco" extension image, a plain systemd root."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rootfs import bundle, compare, container, extension, files, layout, system
from rootfs.errors import BuildError
from rootfs.image import MIB
from rootfs.wheels import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootfs.product import Built, Product

EXTENSION_EPILOG = """\
products:
  kata-containers-coco-extension.img   what Kata attaches: file system and hash tree in two partitions
  root_hash_coco-extension.txt         verity_params for Kata's configuration
  coco-extension.cdx.json              SBOM, CycloneDX 1.6
  coco-extension.erofs, .verity        both partitions as files

example:
  python -m rootfs extension --pause-bundle /opt/pause_bundle
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 when a build failed, 2 for wrong usage.
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
    _bundle_command(commands)
    _extension_command(commands)
    _system_command(commands)
    _container_command(commands)
    _compare_command(commands)
    return parser


def _bundle_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    child = commands.add_parser(
        "bundle",
        help="interpreter, packages and programs as one folder that needs glibc only",
        description="Build the self-contained folder that goes into a guest. Its programs look for their "
        "interpreter below --prefix.",
        epilog="example:\n  python -m rootfs bundle --into build/root --prefix ''",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    child.add_argument(
        "--into", type=Path, default=Path("build/bundle"), metavar="FOLDER", help="(default: %(default)s)"
    )
    child.add_argument(
        "--prefix",
        default=layout.EXTENSION_ROOT,
        metavar="PATH",
        help="where the folder will be in the guest; '' for a root file system (default: %(default)s)",
    )
    child.add_argument("--replace", action="store_true", help="remove an earlier bundle in FOLDER first")
    _common(child)
    child.set_defaults(run=_bundle)


def _extension_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    child = commands.add_parser(
        "extension",
        help='Kata\'s "coco" extension image, its root hash and SBOM',
        description="Build the disk image that Kata mounts at /run/kata-extensions/coco. The same checkout "
        "and the same packages give the same bytes.",
        epilog=EXTENSION_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _output(child, extension.OUTPUT)
    child.add_argument(
        "--pause-bundle",
        type=Path,
        metavar="FOLDER",
        help="pause bundle of a Kata build, to put in (default: none)",
    )
    child.add_argument(
        "--dev",
        action="store_true",
        help="for guests without a TEE: gives sample evidence, which proves nothing; file names get -dev",
    )
    _common(child)
    child.set_defaults(run=_extension)


def _system_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    child = commands.add_parser(
        "system",
        help="a plain systemd root with the agent, its hash tree and SBOM",
        description="Build a root file system for a confidential VM that is not Kata's: systemd, the agent, "
        "and nothing that could log in. The same checkout and the same packages give the same bytes.",
        epilog="products:\n  system.erofs, system.verity   file system and hash tree\n"
        "  root_hash_system.txt          what the initramfs opens it with\n"
        "  system.cdx.json               SBOM, CycloneDX 1.6\n\n"
        "example:\n  python -m rootfs system --output build/system",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _output(child, system.OUTPUT)
    _common(child)
    child.set_defaults(run=_system)


def _container_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    child = commands.add_parser(
        "container",
        help="the root of the container image; the Containerfile calls it",
        description="Build the root of the container image into a new folder. Two folders in it belong to "
        "the image's user, so it takes root.",
        epilog="example:\n  python -m rootfs container --into build/container",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    child.add_argument(
        "--into", type=Path, default=Path("build/container"), metavar="FOLDER", help="(default: %(default)s)"
    )
    _common(child)
    child.set_defaults(run=_container)


def _compare_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    child = commands.add_parser(
        "compare",
        help="size, start and memory of other builds of coco-agent (docs/adr/0009-the-bundle.md)",
        description="Start `coco-agent serve` of each build several times and print size, start and memory.",
        epilog="example:\n  python -m rootfs compare build/bundle/usr/local/bin/coco-agent=build/bundle",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    child.add_argument(
        "build", nargs="+", metavar="PROGRAM=FOLDER", help="a coco-agent, and all it comes with"
    )
    child.set_defaults(run=_compare)


def _output(parser: argparse.ArgumentParser, default: Path) -> None:
    shown = default.relative_to(ROOT)
    parser.add_argument(
        "--output",
        type=Path,
        default=default,
        metavar="FOLDER",
        help=f"where the products go (default: {shown})",
    )


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache", type=Path, default=bundle.CACHE, metavar="FOLDER", help="downloads (default: build/cache)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _bundle(arguments: argparse.Namespace) -> None:
    into = arguments.into.resolve()
    if arguments.replace:
        bundle.remove(into)
    options = bundle.Options(
        into=into, prefix=arguments.prefix, cache=arguments.cache.resolve(), say=progress()
    )
    bundle.build(options)
    _tell_folder(arguments, into)


def _container(arguments: argparse.Namespace) -> None:
    into = arguments.into.resolve()
    container.build(into, arguments.cache.resolve(), progress())
    _tell_folder(arguments, into)


def _tell_folder(arguments: argparse.Namespace, into: Path) -> None:
    size = files.size(into)
    if arguments.json:
        print(json.dumps({"folder": str(into), "bytes": size}))
    else:
        print(f"{into}: {size / MIB:.1f} MiB")


def _extension(arguments: argparse.Namespace) -> None:
    output = arguments.output.resolve()
    cache, dev = arguments.cache.resolve(), arguments.dev
    built = extension.build(output, cache, arguments.pause_bundle, progress(), dev=dev)
    product = extension.DEV_PRODUCT if dev else extension.PRODUCT
    if dev:
        print("warning: a DEVELOPMENT IMAGE, whose guests prove nothing without a TEE", file=sys.stderr)
    _tell(arguments, product, built, {"kernel_parameter": extension.kernel_parameter(built)})


def _system(arguments: argparse.Namespace) -> None:
    built = system.build(arguments.output.resolve(), arguments.cache.resolve(), progress())
    _tell(arguments, system.PRODUCT, built, {})


def _tell(arguments: argparse.Namespace, product: Product, built: Built, more: dict[str, str]) -> None:
    """What was made, for a person or a program; ``more`` lines are of this product alone."""
    output = arguments.output.resolve()
    if arguments.json:
        summary = {
            "folder": str(output),
            "tree_bytes": built.tree_bytes,
            "erofs_bytes": built.erofs_bytes,
            "root_hash": built.verity.root_hash,
            "verity_params": built.verity.parameters(),
            **more,
        }
        print(json.dumps(summary, indent=1))
        return
    print(f"image       {output / (product.disk or product.erofs)}")
    sizes = f"{built.erofs_bytes / MIB:.1f} MiB of erofs, {built.tree_bytes / MIB:.1f} MiB unpacked"
    print(f"size        {sizes}")
    print(f"root hash   {built.verity.root_hash}")
    for line in more.values():
        print(f"kernel      {line}")
    print(f"SBOM        {output / product.sbom}")


def _compare(arguments: argparse.Namespace) -> None:
    print(f"{'files':>9} {'erofs':>9} {'socket':>8} {'ready':>8} {'cpu':>8} {'memory':>8}")
    places = [build.partition("=")[::2] for build in arguments.build]
    builds = [(Path(program).resolve(), Path(tree).resolve()) for program, tree in places]
    for (program, _), found in zip(builds, compare.measure(builds), strict=True):
        sizes = f"{found.tree_bytes / MIB:5.1f} MiB {found.erofs_bytes / MIB:5.1f} MiB"
        times = f"{found.socket_s:6.2f} s {found.ready_s:6.2f} s {found.cpu_s:6.2f} s"
        print(f"{sizes} {times} {found.rss_mb:5.1f} MB  {program}")


def progress() -> Callable[[str], None]:
    """A line on standard error for each step, with the seconds since the start."""
    begin = time.monotonic()

    def say(step: str) -> None:
        print(f"[{time.monotonic() - begin:4.0f} s] {step}", file=sys.stderr, flush=True)

    return say
