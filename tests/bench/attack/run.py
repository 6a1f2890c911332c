"""Runs one attack against a daemon of its own in a memory cgroup, and watches it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests import cgroup
from tests.bench import agent as programs
from tests.bench import rest
from tests.bench.agent import memory_mb
from tests.bench.attack.kinds import ATTACKS
from tests.bench.attack.result import BACK, GROUP_LIMIT, Answers, Memory, Result, ratio
from tests.bench.children import BenchError, Child, child

if TYPE_CHECKING:
    from tests.bench.attack.kinds import Attack
    from tests.bench.parts import Bench

GENTLE: Final = ("nice", "-n", "5")
"""Attackers share a processor with the callers whose answers are timed: those go first, so that what is
measured is the agent."""

CONTROL_S: Final = 1.0
SAMPLE_S: Final = 0.05
PSS_EVERY: Final = 10
"""Samples of RSS for one of PSS, which costs the kernel a walk through all pages."""

FEW: Final = 32
WARM_S: Final = 1.0
"""Connections, and their seconds, before memory is measured."""

LEAVE_S: Final = 15.0
"""Seconds in which memory has to come back."""

DOWN_S: Final = 60.0
"""Seconds an attack may take to stand, or a helper to answer."""


@dataclass(slots=True)
class Watch:
    """The most memory seen until ``stop``."""

    pid: int
    peak: Memory
    task: asyncio.Task[None] | None = None

    @classmethod
    def begin(cls, pid: int) -> Watch:
        with suppress(OSError):  # the kernel's own peak, from now on; without, only samples count
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        watch = cls(pid, Memory(*memory_mb(pid)))
        watch.task = asyncio.create_task(watch._sample())
        return watch

    async def _sample(self) -> None:
        count = 0
        while True:
            with suppress(FileNotFoundError, ProcessLookupError):  # it is gone
                self._look(proportional=count % PSS_EVERY == 0)
            count += 1
            await asyncio.sleep(SAMPLE_S)

    def _look(self, *, proportional: bool) -> None:
        pss = memory_mb(self.pid)[1] if proportional else 0.0
        highest = _status(self.pid).get("VmHWM:", 0.0)
        self.peak = Memory(max(self.peak.rss, highest), max(self.peak.pss, pss))

    def stop(self) -> Memory:
        if self.task is not None:
            self.task.cancel()
        return self.peak


def _status(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split()[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.endswith("kB")}


async def measure(run: Bench, attack: Attack) -> Result:
    """One row.

    Raises:
        BenchError: it could not be measured.
        CgroupError: no memory cgroup can be set.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coco-bench-"))).resolve()
        group = stack.enter_context(cgroup.memory(GROUP_LIMIT))
        command = group.command(*run.command)
        running = await stack.enter_async_context(
            programs.agent(folder, run.kbs_url, cache=True, cpu=run.agent_cpu, command=command)
        )
        for path in attack.holds:
            await rest.get(f"{running.rest}/cdh/resource/{path}")
        prober = await _helper(stack, run, "prober", running.rest, running.hub)
        where = running.hub if attack.ttrpc else running.rest.removeprefix("http://")
        few = await _helper(stack, run, "attacker", attack.name, str(FEW), where)
        attacker = await _helper(stack, run, "attacker", attack.name, str(attack.count), where)
        await _warm_up(run, attack, few)
        return await _Scene(run, attack, running, group, prober, attacker).play()


async def _warm_up(run: Bench, attack: Attack, few: Child) -> None:
    """The same by a few, so that what a program makes at first use, and keeps, is there before.

    Made in the middle of a crowd it would stand alone in memory that could not be given back.
    """
    if attack.silent:
        await run.kbs.ask("silence")
    try:
        await asyncio.wait_for(few.ask("go"), DOWN_S)
        await asyncio.sleep(WARM_S)
        await asyncio.wait_for(few.ask("leave"), DOWN_S)
        await asyncio.sleep(2 * WARM_S)  # the agent gives back what these made it use
    finally:
        if attack.silent:
            await run.kbs.ask("speak")


async def _helper(stack: AsyncExitStack, run: Bench, name: str, *arguments: str) -> Child:
    prefix = GENTLE if name == "attacker" else ()
    helper = await stack.enter_async_context(
        child(f"attack.{name}", *arguments, cpu=run.load_cpu, prefix=prefix)
    )
    await helper.read()
    return helper


@dataclass(frozen=True, slots=True)
class _Scene:
    run: Bench
    attack: Attack
    agent: programs.Agent
    group: cgroup.Group
    prober: Child
    attacker: Child

    async def play(self) -> Result:
        control = await self._probe(CONTROL_S)
        before = Memory(*memory_mb(self.agent.pid))
        watch = Watch.begin(self.agent.pid)
        if self.attack.silent:
            await self.run.kbs.ask("silence")
        try:
            await self.prober.ask("start")
            await asyncio.wait_for(self.attacker.ask("go"), DOWN_S)
            await asyncio.sleep(self.run.plan.attack_s)
            seen = await self.prober.ask("stop")
            peak = watch.stop()
            counted = await asyncio.wait_for(self.attacker.ask("leave"), DOWN_S)
        finally:
            if self.attack.silent:
                await self.run.kbs.ask("speak")
        after, after_s = await self._after(before)
        return Result(
            name=self.attack.name,
            lived=after is not None,
            standing=counted["standing"],
            opened=counted["opened"],
            sent_mb=counted["sent_mb"],
            healthz=_answers(seen["healthz"]),
            cached=max(_answers(seen["cached"]), _answers(seen["hub"]), key=lambda some: some.worst_ms),
            control_ms=max(some["worst_ms"] for some in control.values()),
            before=before,
            peak=peak,
            after=after,
            after_s=after_s,
        )

    async def _probe(self, seconds: float) -> dict[str, Any]:
        await self.prober.ask("start")
        await asyncio.sleep(seconds)
        return await self.prober.ask("stop")

    async def _after(self, before: Memory) -> tuple[Memory | None, float]:
        """Memory once it is back, or when the time for that is over; None when the agent is dead."""
        begin = time.monotonic()
        while self._lives():
            after = Memory(*memory_mb(self.agent.pid))
            passed = time.monotonic() - begin
            if ratio(after, before) <= BACK or passed > LEAVE_S:
                return (after if await self._answers() else None), passed
            await asyncio.sleep(0.2)
        return None, 0.0

    def _lives(self) -> bool:
        return self.agent.pid in self.group.processes() and not self.group.killed()

    async def _answers(self) -> bool:
        with suppress(OSError, BenchError, TimeoutError, IndexError):
            await asyncio.wait_for(rest.get(f"{self.agent.rest}/healthz"), DOWN_S)
            return self._lives()
        return False


def _answers(seen: dict[str, float]) -> Answers:
    return Answers(seen["worst_ms"], seen["p99_ms"])


async def attacks(run: Bench) -> list[str]:
    """All rows; a line on each.

    Raises:
        BenchError: no memory cgroup can be set, in CI.
    """
    try:
        if reason := cgroup.missing():
            return [f"the attacks were not measured: {reason}"]
    except cgroup.CgroupError as error:
        raise BenchError(str(error)) from error
    lines = []
    for attack in ATTACKS.values():
        result = await measure(run, attack)
        for key, value in result.figures():
            run.figures.put(key, value)
        lines.append(summary(result))
        lines += [f"  {text}" for text in (*result.broken(), *result.late())]
    return lines


def summary(result: Result) -> str:
    """One row as a line."""
    after = f"{result.after.rss:.0f}" if result.after is not None else "-"
    healthz, cached = result.healthz, result.cached
    return (
        f"attack {result.name}: {'lived' if result.lived else 'DIED'}, {result.standing} stood"
        f" ({result.opened} opened, {result.sent_mb:.0f} MB sent);"
        f" healthz {healthz.worst_ms:.0f} ms (p99 {healthz.p99_ms:.0f}),"
        f" cached {cached.worst_ms:.0f} ms (p99 {cached.p99_ms:.0f}), without attack {result.control_ms:.0f};"
        f" RSS {result.before.rss:.0f} -> {result.peak.rss:.0f} -> {after} MB in {result.after_s:.1f} s,"
        f" PSS {result.before.pss:.0f} -> {result.peak.pss:.0f} MB"
    )
