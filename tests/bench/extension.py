"""Helper: a guest with the extension image mounted, in namespaces of its own. Argument: the erofs.

Everything is where it is in a guest: the image at ``/run/kata-extensions/coco``, sockets below ``/run``, REST
on 127.0.0.1:8006, and a simulated SNP guest's ``/sys``. A development KBS that believes its evidence runs in
this process. Programs are started as kata-agent does, from the image's manifest.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.devkit.guests import guest
from agent.devkit.kbs import DevKbs, Settings
from tests import kata
from tests.bench.agent import cpu_seconds, memory_mb
from tests.bench.children import BenchError, child, obey, say
from tests.namespace import guest_sys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.bench.children import Child

ENVIRONMENT = {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"}
RESOURCE = "default/key/1"
VALUE = b"the secret of a guest with an extension"
NO_TEE = "--no-tee"
PRIVATE = ("unshare", "--mount", "--net", "--propagation", "private", "sh", "-c")
SET_UP = """
set -e
ip link set lo up
mount -t tmpfs tmpfs /run
mkdir -p /run/kata-extensions/coco
mount -t erofs -o ro,loop "$1" /run/kata-extensions/coco
shift
exec "$@"
"""


def inside(erofs: Path, log: Path | None = None, *, tee: bool = True) -> AbstractAsyncContextManager[Child]:
    """The helper, seen from a test or the bench; without ``tee`` its ``/sys`` is empty. Needs root."""
    arguments = () if tee else (NO_TEE,)
    return child("extension", *arguments, log=log, prefix=(*PRIVATE, SET_UP, "sh", str(erofs)))


class Guest:
    """What runs in here."""

    def __init__(self, variant: str = "default") -> None:
        text = Path(kata.ROOT, "etc/kata-extensions/components.toml").read_text()
        context = {**kata.CONTEXT, "attester_variant": variant}
        self._launches = {launch.name: launch for launch in kata.plan(text, context)}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def handle(self, verb: str, arguments: dict[str, Any]) -> dict[str, object]:
        """One command; ``start``, ``stop``, ``memory`` and ``get`` are about the image's programs."""
        match verb:
            case "start":
                return await self._start(self._launches[arguments["process"]])
            case "stop":
                return await self._stop(arguments["process"])
            case "memory":
                return {"rss_mb": memory_mb(self._running[arguments["process"]].pid)[0]}
            case "get":
                return await _get(arguments["path"])
            case "run":
                return await _ran(arguments["command"], arguments.get("environment"))
            case _:
                raise BenchError(f"no such command: {verb}")

    async def _start(self, launch: kata.Launch) -> dict[str, object]:
        """As kata-agent: delete the socket, start, wait for the socket."""
        words = [launch.path, *launch.arguments]
        if launch.config and Path(launch.config).exists():
            words += ["-c", launch.config]
        if launch.wait_socket:
            Path(launch.wait_socket).unlink(missing_ok=True)
        begin = time.perf_counter()
        with Path(f"/run/{launch.name}.log").open("ab") as log:  # noqa: ASYNC230  # a tmpfs
            process = await asyncio.create_subprocess_exec(
                *words, env={**ENVIRONMENT, **launch.environment}, stderr=log, stdin=subprocess.DEVNULL
            )
        self._running[launch.name] = process
        while launch.wait_socket and not Path(launch.wait_socket).exists():
            if process.returncode is not None or time.perf_counter() > begin + launch.timeout:
                raise BenchError(Path(f"/run/{launch.name}.log").read_text()[-2000:])
            await asyncio.sleep(0.001)
        seconds, cpu = time.perf_counter() - begin, cpu_seconds(process.pid)
        return {"seconds": seconds, "cpu_seconds": cpu, "pid": process.pid}

    async def _stop(self, name: str) -> dict[str, object]:
        process = self._running.pop(name)
        if process.returncode is None:
            process.terminate()
        return {"status": await asyncio.wait_for(process.wait(), 20)}

    async def stop(self) -> None:
        """End all that runs, last started first."""
        for name in reversed(list(self._running)):
            with contextlib.suppress(ProcessLookupError):
                await self._stop(name)


async def _get(path: str) -> dict[str, object]:
    """As a container of the pod asks; the gateway has no socket file to wait for."""
    for _ in range(1000):
        with contextlib.suppress(ConnectionRefusedError):
            _, writer = await asyncio.open_connection("127.0.0.1", 8006)
            writer.close()
            return await _ran(["curl", "-sS", "-f", f"http://127.0.0.1:8006{path}"])
        await asyncio.sleep(0.01)
    raise BenchError("nobody listens on 127.0.0.1:8006")


async def _ran(command: list[str], environment: Mapping[str, str] | None = None) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**ENVIRONMENT, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return {
        "status": process.returncode,
        "output": base64.b64encode(output).decode(),
        "errors": errors.decode(errors="replace"),
    }


async def _mounted(*command: str) -> None:
    answer = await _ran(list(command))
    if answer["status"] != 0:
        raise BenchError(str(answer["errors"]))


def configure(kbs_url: str) -> None:
    """Init-data's files, as kata-agent leaves them."""
    folder = Path(kata.INIT_DATA)
    folder.mkdir(parents=True, mode=0o700)
    (folder / "aa.toml").write_text(f'[token_configs.kbs]\nurl = "{kbs_url}"\n')
    (folder / "cdh.toml").write_text(f'[kbc]\nname = "cc_kbc"\nurl = "{kbs_url}"\n')


async def main() -> None:
    logging.disable(logging.WARNING)  # the broker's own warning that it protects nothing
    if NO_TEE in sys.argv:
        await serve(Settings(), ["-t", "tmpfs", "none", "/sys"])
        return
    async with guest("snp") as simulated:
        await serve(Settings(roots=simulated.roots), guest_sys(simulated.sysroot))


async def serve(broker: Settings, sys_mount: list[str]) -> None:
    """Obey, with that broker and that ``/sys``."""
    async with DevKbs(broker) as kbs:
        kbs.put(RESOURCE, VALUE)
        configure(kbs.url)
        await _mounted("mount", *sys_mount)
        machine = Guest(os.environ.get("KATA_ATTESTER_VARIANT", "default"))
        say(ready=True)
        try:
            await obey(machine.handle)
        finally:
            await machine.stop()
            await _mounted("umount", "--recursive", "/sys")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
