"""The programs of the extension image: size, start, memory."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from rootfs import extension
from rootfs.bundle import CACHE
from rootfs.errors import BuildError
from rootfs.image import MIB
from tests.bench.children import BenchError
from tests.bench.extension import RESOURCE, inside

if TYPE_CHECKING:
    from rootfs.product import Built
    from tests.bench.children import Child
    from tests.bench.figures import Figures

POLL = 1.0
"""Seconds after which kata-agent looks for a socket, and starts the next program."""

AA, CDH, REST = "attestation-agent", "confidential-data-hub", "api-server-rest"


def build() -> Built:
    """The image of this checkout; an earlier one if nothing has changed since.

    Raises:
        BenchError: it cannot be built here.
    """
    try:
        return extension.PRODUCT.current(extension.OUTPUT) or extension.build(extension.OUTPUT, CACHE)
    except BuildError as error:
        raise BenchError(f"no extension image: {error}") from error


async def bundle(figures: Figures, starts: int) -> list[str]:
    """Build it if need be, and start its programs as kata-agent does; lines for the reader."""
    if os.geteuid() != 0:
        return ["the extension image was not measured: mounting it takes root"]
    built = build()
    figures.put("extension_mib", built.erofs_bytes / MIB)
    async with inside(extension.OUTPUT / extension.PRODUCT.erofs) as guest:
        await guest.read()
        await guest.ask("start", process=AA)  # reads the image into the page cache
        await guest.ask("stop", process=AA)
        first, second = [], []
        for _ in range(starts):
            first.append((await guest.ask("start", process=AA))["seconds"])
            await asyncio.sleep(POLL)
            second.append((await guest.ask("start", process=CDH))["seconds"])
            launcher = await guest.ask("memory", process=CDH)
            await guest.ask("stop", process=CDH)
            await guest.ask("stop", process=AA)
        # The best of several: other work on the machine only ever adds.
        figures.put("aa_socket_s", min(first))
        figures.put("launcher_ms", min(second) * 1000)
        figures.put("launcher_mb", launcher["rss_mb"])
        memory, seconds = await whole(guest)
        figures.put("daemon_rss_mb", memory)
        figures.put("start_to_secret_s", seconds)
    return []


async def whole(guest: Child) -> tuple[float, float]:
    """All three roles up to a resource: MB of the daemon then, and seconds until then."""
    begin = time.perf_counter()
    for process in (AA, CDH, REST):
        await guest.ask("start", process=process)
    answer: dict[str, Any] = await guest.ask("get", path=f"/cdh/resource/{RESOURCE}")
    if answer["status"] != 0:
        raise BenchError(f"the agent of the image gave no resource: {answer['errors']}")
    seconds = time.perf_counter() - begin
    memory = await guest.ask("memory", process=AA)
    for process in (REST, CDH, AA):
        await guest.ask("stop", process=process)
    return float(memory["rss_mb"]), seconds
