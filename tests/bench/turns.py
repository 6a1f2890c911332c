"""Two checkouts in turn: ``python -m tests.bench.turns ../other``.

The other one needs an environment of its own in ``.venv`` (``make .venv/.ready``). Broker, callers and the
cost model are this checkout's on both sides, so only the agents differ. Every figure is taken once a side and
round; which side is first changes from round to round. Printed are both medians and the median of the rounds'
ratios with the smallest and the largest of them: what a checkout against itself shows there is the noise.
Processor times (``_cpu_``) vary least when other work runs on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import bundle, material, rest
from tests.bench.__main__ import checkout
from tests.bench.agent import cpu_seconds
from tests.bench.children import BenchError, child
from tests.bench.extension import inside
from tests.bench.figures import Figures
from tests.bench.inside import gap
from tests.bench.parts import bench, boot_at_20ms, memory
from tests.bench.plan import Plan, cores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from tests.bench.parts import Bench

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = """
from rootfs import bundle, extension
extension.PRODUCT.current(extension.OUTPUT) or extension.build(extension.OUTPUT, bundle.CACHE)
print(extension.OUTPUT / extension.PRODUCT.erofs)
"""
PAIRS: Final = 7
AT_ONCE: Final = 16
ONCE: Final = Plan(load_s=2, starts=1, boots=1, gaps=1)

Sample = dict[str, float]


async def start(run: Bench) -> Sample:
    """Exec until all sockets listen, and until a first secret was handed out by REST."""
    begin = time.perf_counter()
    async with run.agent() as running:
        await rest.get(f"{running.rest}/cdh/resource/{material.HOT}")
        return {
            "listen_s": running.listen_s,
            "listen_cpu_s": running.listen_cpu_s,
            "exec_to_secret_s": time.perf_counter() - begin,
        }


async def footprint(run: Bench) -> Sample:
    """RSS and PSS, idle and after the demo's requests."""
    return await _part(run, memory)


async def load(run: Bench) -> Sample:
    """GETs by REST, from the cache and with one request to the broker each."""
    seen = {}
    for state, asked in (("cached", (material.HOT,)), ("warm", material.WARM)):
        paths = [f"/cdh/resource/{path}" for path in asked]
        async with run.agent(cache=state == "cached") as running:
            await rest.get(f"{running.rest}{paths[0]}")
            before = cpu_seconds(running.pid)
            rates = await rest.wrk(running.rest, paths, AT_ONCE, run.plan.load_s, run.load_cpu)
            used = cpu_seconds(running.pid) - before
        seen[f"rest_{state}_c{AT_ONCE}_rps"] = rates["rps"]
        seen[f"rest_{state}_cpu_us"] = used / rates["requests"] * 1e6
    return seen


async def loop(run: Bench) -> Sample:
    """The longest gap of the event loop."""
    return await _part(run, gap)


async def boot(run: Bench) -> Sample:
    """A pod's boot against the cost model."""
    return await _part(run, boot_at_20ms)


async def image(run: Bench) -> Sample:
    """The three programs of the extension image until the first secret."""
    async with inside(await _built(run.checkout or ROOT)) as guest:
        await guest.read()
        await bundle.whole(guest)  # reads the image into the page cache
        rss, seconds = await bundle.whole(guest)
    return {"start_to_secret_s": seconds, "daemon_rss_mb": rss}


PARTS: Final[Mapping[str, Callable[[Bench], Awaitable[Sample]]]] = {
    "start": start,
    "footprint": footprint,
    "load": load,
    "loop": loop,
    "boot": boot,
    "image": image,
}


async def _built(root: Path) -> Path:
    """A checkout's extension image, built by its own means unless it is current."""
    program = await asyncio.create_subprocess_exec(
        root / ".venv/bin/python", "-c", BUILD, cwd=root, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await program.communicate()
    if program.returncode != 0:
        raise BenchError(f"no extension image could be built in {root}")
    return Path(output.decode().splitlines()[-1])


async def _part(run: Bench, part: Callable[[Bench], Awaitable[None]]) -> Sample:
    figures = Figures()
    await part(replace(run, figures=figures))
    return {key: value for key, value in figures.flat().items() if not isinstance(value, str)}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure on both sides, by round."""

    key: str
    ours: Sequence[float]
    theirs: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """This checkout over the other one, round by round."""
        return [one / other for one, other in zip(self.ours, self.theirs, strict=True) if other]

    def line(self) -> str:
        """As the table shows it."""
        ours, theirs, ratios = statistics.median(self.ours), statistics.median(self.theirs), self.ratios
        spread = f"{statistics.median(ratios):8.3f}  {min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
        return f"{self.key:<34} {ours:>10.4g} {theirs:>10.4g}  {spread}"


def rows(pairs: Sequence[tuple[Sample, Sample]]) -> list[Row]:
    """What both sides have in all rounds."""
    return [
        Row(key, [ours[key] for ours, _ in pairs], [theirs[key] for _, theirs in pairs])
        for key in pairs[0][0]
    ]


@asynccontextmanager
async def _neighbours(run: Bench, other: Path) -> AsyncIterator[None]:
    """Two idle processes of the other environment: PSS divides libraries by the processes that map them, and
    this side's are mapped by the bench and by its broker."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            idle = child("broker", str(run.folder), cpu=run.load_cpu, checkout=other)
            await (await stack.enter_async_context(idle)).read()
        yield


async def turns(other: Path, names: Sequence[str], pairs: int) -> list[Row]:
    """Measure, a part at a time, so that the two sides of a round are seconds apart."""
    found: list[Row] = []
    async with bench(ONCE, Figures(), cores()) as run, _neighbours(run, other):
        sides = (run, replace(run, checkout=other))
        for name in names:
            seen = []
            for number in range(pairs):
                print(f"turns: {name} {number + 1} of {pairs}", file=sys.stderr, flush=True)
                samples = {}
                for side in sides if number % 2 == 0 else sides[::-1]:
                    samples[side.checkout] = await PARTS[name](side)
                seen.append((samples[None], samples[other]))
            found += rows(seen)
    return found


def main() -> int:
    """Exit status: 1 when a measurement could not be made."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.turns", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=checkout, help="the checkout to compare with")
    parser.add_argument("part", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"rounds (default: {PAIRS})")
    arguments = parser.parse_intermixed_args()
    if unknown := set(arguments.part) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    names = arguments.part or list(PARTS)
    if "image" in names and os.geteuid() != 0:
        print("turns: no start_to_secret_s: mounting the extension image takes root", file=sys.stderr)
        names.remove("image")
    try:
        found = asyncio.run(turns(arguments.other, names, arguments.pairs))
    except BenchError as error:
        print(f"turns: {error}", file=sys.stderr)
        return 1
    print(f"{'figure':<34} {'this':>10} {'other':>10}  {'ratio':>8}  smallest and largest")
    print("\n".join(row.line() for row in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
