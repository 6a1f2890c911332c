"""REST load with wrk, and cold requests with plain sockets."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

from tests.bench import material
from tests.bench.children import BenchError, pinned

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT: Final = """
local paths, at = PATHS, 0
request = function()
  at = at % #paths + 1
  return wrk.format("GET", paths[at])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests":%d,"seconds":%f,"p50_us":%f,"p99_us":%f,"errors":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
MISSING: Final = "wrk is missing. Run: sudo apt-get install wrk"


async def wrk(
    url: str, paths: Sequence[str], connections: int, seconds: int, cpu: int | None
) -> dict[str, float]:
    """Load a server's paths in turn over kept connections: rps, p50_ms, p99_ms, requests."""
    if shutil.which("wrk") is None:
        raise BenchError(MISSING)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("PATHS", "{" + ",".join(json.dumps(path) for path in paths) + "}"))
        script.flush()
        program = await asyncio.create_subprocess_exec(
            *pinned(cpu, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await program.communicate()
    if program.returncode != 0:
        raise BenchError(f"wrk ended with status {program.returncode}")
    return parse(output.decode())


def parse(output: str) -> dict[str, float]:
    """Read the line our script makes wrk print.

    Raises:
        BenchError: there is none, or a request failed: a fast refusal is no figure.
    """
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise BenchError("wrk printed no summary")
    seen: dict[str, Any] = json.loads(line)
    if seen["errors"] or not seen["requests"]:
        raise BenchError(f"wrk: {seen['errors']} of {seen['requests']} requests failed")
    return {
        "requests": seen["requests"],
        "rps": seen["requests"] / seen["seconds"],
        "p50_ms": seen["p50_us"] / 1000,
        "p99_ms": seen["p99_us"] / 1000,
    }


async def get(url: str) -> bytes:
    """One GET on a connection of its own; the body of a 200."""
    host, _, path = url.removeprefix("http://").partition("/")
    address, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    if head.split(b" ", 2)[1] != b"200":
        raise BenchError(f"the agent answered {head.splitlines()[0].decode()}")
    return body


async def burst(url: str, callers: int, expected: bytes) -> float:
    """Seconds until all of ``callers`` simultaneous GETs have the right answer."""
    begin = time.perf_counter()
    bodies = await asyncio.gather(*(get(url) for _ in range(callers)))
    took = time.perf_counter() - begin
    if set(bodies) != {expected}:
        raise BenchError("a caller got another secret")
    return took


async def sequence(url: str, count: int) -> None:
    """GETs one after the other on one connection."""
    host, _, path = url.removeprefix("http://").partition("/")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    request = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    for _ in range(count):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise BenchError(f"the agent answered {head.splitlines()[0].decode()}")
        await reader.readexactly(len(material.HOT_VALUE))
    writer.close()
