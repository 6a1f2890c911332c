"""A cached GET against nginx: one worker, the same body in memory, the same processor and load, in turn."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import statistics
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import material, rest
from tests.bench.children import BenchError, pinned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.bench.parts import Bench

AT_ONCE: Final = 16
MISSING: Final = "nginx is missing. Run: sudo apt-get install nginx-light"
PATH: Final = f"/cdh/resource/{material.HOT}"

CONFIGURATION: Final = """
daemon off;
worker_processes 1;
pid FOLDER/nginx.pid;
error_log FOLDER/error.log;
events { worker_connections 512; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path FOLDER/body;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  server {
    listen 127.0.0.1:PORT;
    location = PATH { default_type application/octet-stream; return 200 "BODY"; }
  }
}
"""


async def against_nginx(run: Bench) -> list[str]:
    """The ratio of medians; a line to print where nginx is missing.

    Raises:
        BenchError: nginx is missing in CI, or does not start.
    """
    if _program() is None:
        if os.environ.get("CI"):
            raise BenchError(MISSING)
        return [MISSING]
    ours: list[float] = []
    theirs: list[float] = []
    async with run.agent(cache=True) as running, nginx(run.agent_cpu) as url:
        for base in (running.rest, url):
            if await rest.get(f"{base}{PATH}") != material.HOT_VALUE:
                raise BenchError(f"{base} answered with another body")
        for _ in range(run.plan.rounds):
            for base, rates in ((running.rest, ours), (url, theirs)):
                seen = await rest.wrk(base, [PATH], AT_ONCE, run.plan.load_s, run.load_cpu)
                rates.append(seen["rps"])
    run.figures.put("nginx_rps", statistics.median(theirs))
    run.figures.put("rest_cached_vs_nginx", statistics.median(ours) / statistics.median(theirs))
    return []


@asynccontextmanager
async def nginx(cpu: int | None) -> AsyncIterator[str]:
    """Run it; its base URL."""
    program = _program()
    if program is None:
        raise BenchError(MISSING)
    with tempfile.TemporaryDirectory(prefix="coco-bench-") as name:
        folder = Path(name).resolve()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        text = CONFIGURATION.replace("FOLDER", name).replace("PORT", str(port)).replace("PATH", PATH)
        (folder / "nginx.conf").write_text(text.replace("BODY", material.HOT_VALUE.decode()))
        process = await asyncio.create_subprocess_exec(
            *pinned(cpu, program, "-p", name, "-e", f"{name}/error.log", "-c", f"{name}/nginx.conf")
        )
        try:
            await _listening(process, folder, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _program() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


async def _listening(process: asyncio.subprocess.Process, folder: Path, port: int) -> None:
    for _ in range(500):
        if process.returncode is not None:
            log = folder / "error.log"
            raise BenchError(f"nginx ended early: {log.read_text()[-2000:] if log.exists() else ''}")
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise BenchError("nginx does not listen after 5 s")
