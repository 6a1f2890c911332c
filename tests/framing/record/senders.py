"""Requests: every program is asked to send some, one after the other, to the listener."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.framing.record.wire import Listener, Recording, request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.framing.record.tools import Tools

_TABLE: Final = Path(__file__).with_name("clients.tsv")
_PORT: Final = 18006
_SAYS: Final = {"ab": "ab -V", "busybox": "busybox --help"}
_REQUIRE: Final = (
    "const require = (await import('node:module')).createRequire(process.env.NODE_MODULES + '/');"
)


def record(tools: Tools) -> Iterator[Recording]:
    """All of them."""
    listener = Listener(_PORT)
    (tools.folder / "file").write_bytes(b"hello\r\n\r\n" + bytes(range(64)))
    for row in _TABLE.read_text().splitlines()[1:]:
        language, what, code = row.split("\t")
        program, command = _command(tools, language, what, _filled(code, tools))
        yield from _one(tools, listener, program, what, command)
    yield from _socket(tools)
    for program, command in _built(tools):
        yield from _one(tools, listener, program, "", command, most=30)


def _filled(code: str, tools: Tools) -> str:
    places = {
        "{u}": f"http://127.0.0.1:{_PORT}",
        "{h}": f"127.0.0.1:{_PORT}",
        "{p}": str(_PORT),
        "{f}": str(tools.folder / "file"),
        "{d}": str(tools.folder),
    }
    for place, value in places.items():
        code = code.replace(place, value)
    return code


def _command(tools: Tools, language: str, what: str, code: str) -> tuple[str, list[str]]:
    address = f"http://127.0.0.1:{_PORT}"
    name, _, _ = what.partition(",")
    match language:
        case "curl":
            direct = "-x" in code or "--proxy" in code
            target = (
                "http://localhost:8006/a" if direct else f"{address}/a/../b" if not code else f"{address}/a"
            )
            path = ["--path-as-is"] if not code else []
            options = code.split(" ") if code else []
            return tools.version("curl", "curl --version"), ["curl", "-sS", "-m5", *path, *options, target]
        case "python":
            return tools.package(name), [str(tools.python), "-c", code.replace("\\n", "\n")]
        case "node":
            wrapped = f"{_REQUIRE}{code}"
            return tools.module(name), ["node", "--input-type=module", "-e", wrapped]
        case "perl":
            return tools.version(f"Perl {name}", "perl -e 'print $^V'"), ["perl", "-e", code]
        case _:
            return tools.version(name, _SAYS.get(name, f"{name} --version")), shlex.split(code)


def _one(
    tools: Tools, listener: Listener, program: str, what: str, command: Sequence[str], *, most: int = 1
) -> Iterator[Recording]:
    listener.take()
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=tools.environment())
    time.sleep(0.05)
    taken = listener.take()[:most]
    if not taken:
        print(f"{program}, {what}: sent nothing: {done.stderr[-300:]!r}")
    for data in taken:
        yield request(program, what or data.split(b" ")[1].decode(), data)


def _socket(tools: Tools) -> Iterator[Recording]:
    path = tools.folder / "listener"
    path.unlink(missing_ok=True)
    listener = Listener(path=str(path))
    command = ["curl", "-sS", "-m5", "--unix-socket", str(path), "http://localhost/a"]
    yield from _one(tools, listener, tools.version("curl", "curl --version"), "unix socket", command)


def _built(tools: Tools) -> Iterator[tuple[str, list[str]]]:
    address = f"http://127.0.0.1:{_PORT}"
    yield tools.version("Go net/http", "go version"), [str(tools.folder / "client-go"), address]
    yield tools.version("Java", "java -version"), ["java", "-cp", str(tools.folder), "Client", address]
    for name in ("reqwest", "hyper", "ureq"):
        yield tools.crate(name), [str(tools.folder / "rust/debug/client"), name, address]
