"""``make bench``: prints a table and writes ``bench.json``. ``python -m tests.bench boot`` runs one part."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from tests.bench.children import BenchError
from tests.bench.figures import Figures, table
from tests.bench.parts import PARTS, bench
from tests.bench.plan import choose, cores

OUTPUT = Path(__file__).resolve().parents[2] / "bench.json"


async def measure(names: list[str], figures: Figures, other: Path | None) -> list[str]:
    """Run the parts; lines to print below the table."""
    lines = []
    async with bench(choose(), figures, cores(), other) as run:
        for name in names:
            begin = time.perf_counter()
            print(f"bench: {name} ...", end=" ", file=sys.stderr, flush=True)
            lines += await PARTS[name](run) or []
            print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return lines


def checkout(word: str) -> Path:
    """A folder with an environment, from the command line."""
    folder = Path(word).resolve()
    if not (folder / ".venv/bin/coco-agent").exists():
        raise argparse.ArgumentTypeError(
            f"{folder} has no .venv/bin/coco-agent. Run there: make .venv/.ready"
        )
    return folder


def main() -> int:
    """Exit status: 1 when a measurement could not be made. A missed budget is shown, not a failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("part", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--checkout", type=checkout, help="measure the agent of another checkout, by its .venv"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.part) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    figures = Figures()
    try:
        lines = asyncio.run(measure(arguments.part or list(PARTS), figures, arguments.checkout))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    text = json.dumps(figures.flat(), indent=1)
    if not arguments.part and not arguments.checkout:
        OUTPUT.write_text(text + "\n")
    print(text if arguments.json else "\n".join([table(figures.flat()), "", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
