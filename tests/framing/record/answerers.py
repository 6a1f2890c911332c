"""Answers: every server is started and asked the same questions."""

from __future__ import annotations

import functools
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from tests.framing.record.servers import BEHIND, DEBIAN, PYTHON, SILENT, Server
from tests.framing.record.wire import Listener, Recording, answer, ask, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.framing.record.tools import Tools

_HOST: Final = b"Host: localhost\r\n"


def _get(path: str, *fields: bytes, version: str = "1.1") -> bytes:
    lines = b"".join(field + b"\r\n" for field in (b"Host: localhost", *fields))
    return f"GET {path} HTTP/{version}\r\n".encode() + lines + b"\r\n"


QUESTIONS: Final[tuple[tuple[str, tuple[bytes, ...]], ...]] = (
    ("text", (_get("/text"),)),
    ("text, close", (_get("/text", b"Connection: close"),)),
    ("HTTP/1.0", (_get("/text", version="1.0"),)),
    ("HTTP/1.0, keep-alive", (_get("/text", b"Connection: keep-alive", version="1.0"),)),
    ("stream", (_get("/stream"),)),
    ("stream, HTTP/1.0", (_get("/stream", version="1.0"),)),
    ("none", (_get("/none"),)),
    ("missing", (_get("/missing"),)),
    ("problem", (_get("/problem"),)),
    ("early hints", (_get("/hints"),)),
    ("folder", (_get("/folder"),)),
    ("range", (_get("/text", b"Range: bytes=1-2"),)),
    ("modified", (_get("/text", b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"),)),
    ("compressed", (_get("/text", b"Accept-Encoding: gzip"),)),
    ("post", (b"POST /echo HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\n\r\nhello",)),
    (
        "chunks",
        (b"POST /echo HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",),
    ),
    (
        "expect",
        (b"POST /echo HTTP/1.1\r\n" + _HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n", b"hello"),
    ),
    ("method", (b"DELETE /text HTTP/1.1\r\n" + _HOST + b"\r\n",)),
    ("nobody behind", (_get("/nobody"),)),
    ("somebody behind", (_get("/behind"),)),
    ("somebody late behind", (_get("/late"),)),
    ("late", (b"GET /text HTTP/1.1\r\nHo",)),
    ("garbage", (b"garbage\r\n\r\n",)),
    ("garbage in a field", (b"GET /text HTTP/1.1\r\n" + _HOST + b"X Y: z\r\n\r\n",)),
    ("no Host", (b"GET /text HTTP/1.1\r\n\r\n",)),
    ("HTTP/3.0", (b"GET /text HTTP/3.0\r\n" + _HOST + b"\r\n",)),
    ("long field", (_get("/text", b"X: " + b"y" * 70000),)),
    ("long target", (_get("/" + "y" * 70000),)),
)


def record(tools: Tools) -> Iterator[Recording]:
    """Answers of all servers, and what those that are proxies ask of the server behind them."""
    behind, late = Listener(BEHIND), socket.create_server(("127.0.0.1", SILENT))
    (tools.folder / "www/folder").mkdir(parents=True, exist_ok=True)
    (tools.folder / "www/text").write_text("hello\n" * 20)
    for number, server in enumerate(_servers(tools)):
        port = 18100 + number
        with _running(tools, server, port) as runs:
            if not runs:
                print(f"{server.name}: does not run")
                continue
            with ThreadPoolExecutor(8) as threads:
                heard = threads.map(functools.partial(_ask, port), QUESTIONS)
            for (what, _), data in zip(QUESTIONS, heard, strict=True):
                found = answer(server.name, what, data)
                if found is not None:
                    yield found
            for data in behind.take()[:6]:
                yield request(server.name, "as a proxy", data)
    late.close()


def _ask(port: int, question: tuple[str, tuple[bytes, ...]]) -> bytes:
    what, parts = question
    return ask(("127.0.0.1", port), *parts, patience=2.5 if "late" in what else 1.0)


def _servers(tools: Tools) -> Iterator[Server]:
    for name, code in PYTHON.items():
        script = tools.folder / f"server_{name}.py"
        script.write_text(code)
        yield Server(tools.package(name), (str(tools.python), str(script), "{port}"))
    go = (str(tools.folder / "server-go"), "127.0.0.1:{port}")
    yield Server(tools.version("Go net/http", "go version"), go)
    java = ("java", "-cp", str(tools.folder), "Server", "{port}")
    yield Server(tools.version("Java httpserver", "java -version"), java)
    for kind in ("http", "express", "fastify"):
        script = tools.folder / "crate/server.mjs"
        yield Server(tools.module(kind), ("node", str(script), kind, "{port}"))
    for kind, crate in (("actix", "actix-web"), ("axum", "axum")):
        rust = (str(tools.folder / "rust/debug/server"), kind, "127.0.0.1:{port}")
        yield Server(tools.crate(crate), rust)
    for each in DEBIAN:
        version = tools.version(each.name, each.version)
        yield Server(version, each.command, each.configuration)


@contextmanager
def _running(tools: Tools, server: Server, port: int) -> Iterator[bool]:
    places = {"{port}": str(port), "{folder}": str(tools.folder), "{conf}": str(tools.folder / "conf")}
    places |= {"{behind}": str(BEHIND), "{silent}": str(SILENT), "{nobody}": "18009"}

    def filled(text: str) -> str:
        for place, value in places.items():
            text = text.replace(place, value)
        return text

    (tools.folder / "conf").write_text(filled(server.configuration))
    command = [filled(part) for part in server.command]
    with (tools.folder / "log").open("a") as log:
        process = subprocess.Popen(command, env=tools.environment(), stdout=log, stderr=log, cwd=tools.folder)
        try:
            yield _answers(port, process)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False
