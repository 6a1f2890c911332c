"""A real nginx on loopback, in front of a server that writes down what nginx understood."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.framing.compare import Seen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PROGRAM: Final = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")

_CONFIGURATION: Final = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ worker_connections 512; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_header_buffer_size 16k; large_client_header_buffers 4 16k; client_max_body_size 0;
  lingering_close off;
  server {{
    listen unix:{folder}/front;
    proxy_ignore_client_abort on; proxy_set_header Host a;
    location / {{ proxy_pass http://unix:{folder}/behind:; }}
  }}
}}
"""
_STATUS: Final = re.compile(rb"^HTTP/1\.[01] ([0-9]{3}) ", re.MULTILINE)
_GOOD: Final = b"HTTP/1.1 204 Understood\r\nConnection: close\r\n\r\n"


class Nginx:
    """What nginx makes of the bytes of one connection."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passed: list[tuple[str, bytes]] = []

    async def requests(self, data: bytes) -> Seen:
        """Send the bytes and end our side; nginx answers what it understood, and ends its side."""
        self._passed.clear()
        reader, writer = await asyncio.open_unix_connection(self._folder / "front")
        writer.write(data)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        statuses = [int(each) for each in _STATUS.findall(answer)]
        if any(status >= 400 for status in statuses):
            return Seen(tuple(self._passed), "refused")
        _, _, last = answer.rpartition(b"HTTP/1.1 ")
        return Seen(tuple(self._passed), "closed" if b"Connection: close" in last else "open")

    async def behind(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request as nginx passes it on: HTTP/1.0, its body announced."""
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        named = {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in fields)}
        body = await reader.readexactly(int(named.get(b"content-length", b"0")))
        method, target, _ = line.decode("latin-1").split(" ")
        self._passed.append((f"{method} {target}", body))
        writer.write(_GOOD)
        writer.close()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Nginx]:
    """Start it, and wait until it takes connections."""
    assert PROGRAM is not None
    nginx = Nginx(folder)
    behind: Any = await asyncio.start_unix_server(nginx.behind, folder / "behind")
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder))
    process = await asyncio.create_subprocess_exec(PROGRAM, "-c", configuration, "-p", folder)
    try:
        async with asyncio.timeout(10):
            while not (folder / "front").exists():
                assert process.returncode is None
                await asyncio.sleep(0.01)
        yield nginx
    finally:
        process.terminate()
        await process.wait()
        behind.close()
        await behind.wait_closed()
