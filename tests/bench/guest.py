"""Helper: the daemon with a slow quote, measured from inside.

It runs what ``coco-agent serve`` runs, logs and hardening included, with a sample attester that takes its
time. Arguments: a folder for sockets, the broker's URL, and the file of its root certificate if it has one.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config.model import Attester, Config, Control, Features, Gateway, Hub, Kbs
from agent.daemon import Daemon
from agent.devkit.sample import SampleAttester
from agent.hardening import harden
from agent.observe.logs import setup
from agent.tee.evidence_source import GuestEvidence
from tests.bench.agent import cached
from tests.bench.children import obey, say

if TYPE_CHECKING:
    from collections.abc import Mapping

TOP = 5
ROOMS = 10
TICK_S = 0.001


@dataclass(slots=True)
class Gap:
    """The longest time between two turns of the loop, on the wall and of this thread's processor."""

    wall: float = 0.0
    cpu: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def start(self) -> None:
        self.wall = self.cpu = 0.0
        self.task = asyncio.get_running_loop().create_task(self._tick())

    def stop(self) -> dict[str, object]:
        if self.task is not None:
            self.task.cancel()
        return {"gap_ms": self.wall * 1000, "gap_cpu_ms": self.cpu * 1000}

    async def _tick(self) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(TICK_S)
            now, used = time.perf_counter(), time.thread_time()
            self.wall = max(self.wall, now - wall - TICK_S)
            self.cpu = max(self.cpu, used - cpu)
            wall, cpu = now, used


class Guest:
    """One daemon after another on the same sockets."""

    def __init__(self, folder: Path, url: str, roots: str) -> None:
        self._folder = folder
        self._kbs = Kbs(url=url, extra_roots=roots)
        self._daemon: Daemon | None = None
        self._gap = Gap()
        self._profile = cProfile.Profile()

    async def fresh(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Start anew: no token, no connection, nothing cached."""
        await self.stop()
        kbs = self._kbs
        hub = Hub(socket=f"unix://{self._folder}/cdh.sock", kbc="cc_kbc", kbs=kbs)
        config = Config(
            attester=Attester(socket=f"unix://{self._folder}/aa.sock", kbs=kbs, allow_sample=True),
            hub=cached(hub) if arguments.get("cache") else hub,
            control=Control(socket=""),
            gateway=Gateway(bind="127.0.0.1:0", features=Features.ALL),
        )
        attester = SampleAttester(arguments["latency"], blocking=arguments.get("blocking", False))
        self._daemon = Daemon(config, evidence=GuestEvidence(attester, (), None))
        await self._daemon.start()
        return {"rest": self._daemon.rest_url}

    async def stop(self) -> None:
        if self._daemon is not None:
            await self._daemon.stop()

    async def handle(self, verb: str, arguments: dict[str, Any]) -> dict[str, object]:
        match verb:
            case "fresh":
                return await self.fresh(arguments)
            case "gap-stop":
                return self._gap.stop()
            case "profile-stop":
                self._profile.disable()
                return _hot_functions(self._profile)
            case "memory-stop":
                return _kept()
            case "gap-start":
                self._gap.start()
            case "profile-start":
                self._profile.enable()
            case "memory-start":
                gc.collect()
                tracemalloc.start()
        return {}


def _hot_functions(profile: cProfile.Profile) -> dict[str, object]:
    profile.create_stats()
    statistics = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    rows, rooms = [], Counter[str]()
    for where, (_, calls, own, _, callers) in statistics.items():
        if "epoll" in where[2]:
            continue  # waiting
        rows.append((own, calls, _place(*where)))
        if where[0].startswith("~") and "socket" not in where[2]:
            for caller, (_, _, part, _) in callers.items():  # a built-in is whoever's calls it
                rooms[_room(*caller)] += part
        else:
            rooms[_room(*where)] += own
    rows.sort(reverse=True)
    total = sum(own for own, _, _ in rows)
    return {
        "calls": sum(calls for _, calls, _ in rows),
        "seconds": total,
        "top": [[f"{own / total:.0%}", calls, place] for own, calls, place in rows[:TOP]],
        "rooms": [[f"{own / total:.0%}", room] for room, own in rooms.most_common(ROOMS)],
    }


def _room(file: str, line: int, function: str) -> str:
    """Whose time it is: a room of the agent, a package, or the standard library."""
    parts = Path(file).parts
    if file.startswith("~"):
        return "system calls" if "socket" in function else "interpreter"
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1]
    if "agent" in parts:
        return "/".join(parts[parts.index("agent") : -1])
    return parts[-2] if len(parts) > 1 and not parts[-2].startswith("python") else Path(file).stem


def _place(file: str, line: int, function: str) -> str:
    if file.startswith("~"):
        return function
    return f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"


def _kept() -> dict[str, object]:
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    top = [[each.size, each.count, _line(each.traceback[0])] for each in snapshot.statistics("lineno")[:TOP]]
    return {"kept": kept, "peak": peak, "top": top}


def _line(frame: tracemalloc.Frame) -> str:
    return f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}"


async def main() -> None:
    roots = Path(sys.argv[3]).read_text() if len(sys.argv) > 3 else ""
    guest = Guest(Path(sys.argv[1]), sys.argv[2], roots)
    harden()
    setup(Config().observe)
    say(ready=True)
    try:
        await obey(guest.handle)
    finally:
        await guest.stop()


if __name__ == "__main__":
    asyncio.run(main())
