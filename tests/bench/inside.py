"""What is measured inside the daemon: gaps of its event loop, and where a request's time goes."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import material, rest

if TYPE_CHECKING:
    from tests.bench.parts import Bench

GAP_QUOTE_S: Final = 3.0
CALLERS: Final = 64


async def gap(run: Bench) -> None:
    """Longest event-loop gap while 64 cold callers wait for a 3 s quote that blocks a thread."""
    with tempfile.TemporaryDirectory(prefix="coco-bench-") as name:
        folder = Path(name).resolve()
        async with run.guest(folder) as guest, run.calls(str(folder / "cdh.sock")) as calls:
            gaps, cpu = [], []
            for _ in range(run.plan.gaps):
                url = (await guest.ask("fresh", latency=GAP_QUOTE_S, blocking=True))["rest"]
                await guest.ask("gap-start")
                await asyncio.gather(
                    calls.ask("once", callers=CALLERS // 2),
                    rest.burst(f"{url}/cdh/resource/{material.HOT}", CALLERS // 2, material.HOT_VALUE),
                )
                seen = await guest.ask("gap-stop")
                gaps.append(seen["gap_ms"])
                cpu.append(seen["gap_cpu_ms"])
            run.figures.put("loop_gap_ms", statistics.median(gaps))
            run.figures.put("loop_gap_cpu_ms", statistics.median(cpu))


async def profile(run: Bench) -> list[str]:
    """Where the time of a cached REST GET goes, and what memory it leaves behind; lines for the reader."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="coco-bench-") as name:
        async with run.guest(Path(name).resolve()) as guest:
            url = (await guest.ask("fresh", latency=0.0, cache=True))["rest"]
            hot, count = f"{url}/cdh/resource/{material.HOT}", run.plan.profiled
            await rest.sequence(hot, count)
            await guest.ask("memory-start")
            await rest.sequence(hot, count)
            kept = await guest.ask("memory-stop")
            await guest.ask("profile-start")
            await rest.sequence(hot, count)
            seen = await guest.ask("profile-stop")
    run.figures.put("profile_calls_per_request", seen["calls"] / count)
    run.figures.put("retained_bytes_per_request", kept["kept"] / count)
    lines.append(
        f"cached REST GET, own time under cProfile ({seen['seconds'] / count * 1e6:.0f} us a request):"
    )
    lines += [f"  {share:>4}  {calls / count:5.1f} calls  {place}" for share, calls, place in seen["top"]]
    lines.append("  by room: " + ", ".join(f"{room} {share}" for share, room in seen["rooms"]))
    lines.append(f"memory kept after {count} of them: {kept['kept']} bytes (peak {kept['peak']}):")
    lines += [f"  {size:>7} bytes in {number:>5} blocks  {place}" for size, number, place in kept["top"]]
    return lines
