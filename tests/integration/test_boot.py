"""A guest that boots before its network: no interface, no name service, no broker, and no restart later."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.errors import AgentError, ErrorCode
from agent.serve.ttrpc.remote import RemoteHub
from tests.integration.support import BIN, CLEAN_ENVIRONMENT, Program, said, soon, visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
# A network of its own without any interface up, and files for names that nobody else sees.
UNSHARE = ("unshare", "--net", "--mount", "--propagation", "private")
START = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'
REST = "127.0.0.1:8006"
WAIT = 1.5  # seconds each caller has: what kata-agent's 50 s are, compressed


def namespaces_work() -> bool:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.integration,
    # In CI nothing is skipped: what is missing there fails.
    pytest.mark.skipif(
        "CI" not in os.environ and not namespaces_work(), reason="needs root, to make a network namespace"
    ),
]


@dataclass(slots=True)
class Guest:
    """The agent in its namespaces, and who can change them."""

    agent: Program
    hosts: Path
    hub: RemoteHub
    helper: asyncio.subprocess.Process

    async def tell(self, words: str) -> str:
        assert self.helper.stdin is not None
        assert self.helper.stdout is not None
        self.helper.stdin.write(f"{words}\n".encode())
        await self.helper.stdin.drain()
        return (await asyncio.wait_for(self.helper.stdout.readline(), 20)).decode().strip()

    async def refused(self) -> ErrorCode:
        began = time.monotonic()
        with pytest.raises(AgentError) as caught:
            await self.hub.get_resource("kbs:///default/key/1", soon(WAIT))
        assert time.monotonic() - began < 1.5 * WAIT
        return caught.value.code


@asynccontextmanager
async def guest(folder: Path) -> AsyncIterator[Guest]:
    hosts, resolv, sock = folder / "hosts", folder / "resolv.conf", folder / "cdh.sock"
    hosts.write_text("")
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (folder / "agent.toml").write_text(
        '[kbs]\nurl = "http://kbs.test:8080"\n[attester]\nallow_sample = true\n'
        f'[control]\nsocket = "unix://{folder}/control.sock"\n'
    )
    (folder / "cdh.toml").write_text(
        f'socket = "unix://{sock}"\n[kbc]\nname = "cc_kbc"\nurl = "http://kbs.test:8080"\n'
    )
    command = (
        str(BIN / "coco-agent"), "serve", "--agent-config", str(folder / "agent.toml"),
        "--cdh-config", str(folder / "cdh.toml"), "--attestation-sock", f"unix://{folder}/aa.sock",
        "--bind", REST,
    )  # fmt: skip
    log = folder / "agent.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *UNSHARE, "sh", "-c", START, "sh", str(hosts), str(resolv), *command,
            stderr=stderr, env=CLEAN_ENVIRONMENT,
        )  # fmt: skip
    agent = Program(process, log)
    hub = RemoteHub(f"unix://{sock}")
    helper: asyncio.subprocess.Process | None = None
    try:
        await visible(sock, agent)
        # Who asks sooner waits until the daemon is loaded; these tests are too short of time for that.
        await said(agent, f"http://{REST}")
        helper = await asyncio.create_subprocess_exec(
            "nsenter", "--target", str(process.pid), "--net",
            sys.executable, "-m", "tests.integration.late_network",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            cwd=ROOT, env={**CLEAN_ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        yield Guest(agent, hosts, hub, helper)
    finally:
        await hub.close()
        if helper is not None and helper.stdin is not None:
            helper.stdin.close()
            await asyncio.wait_for(helper.wait(), 20)
        await agent.stop()


async def test_no_network_no_names_no_broker_and_then_the_next_request_succeeds(tmp_path: Path) -> None:
    async with guest(tmp_path.resolve()) as there:
        pid = there.agent.process.pid
        assert [await there.refused() for _ in range(2)] == [ErrorCode.KBS_DNS_FAILED] * 2
        assert await there.tell("network") == "done"
        assert await there.refused() is ErrorCode.KBS_DNS_FAILED
        there.hosts.write_text("127.0.0.1 kbs.test\n")
        assert await there.refused() is ErrorCode.KBS_UNREACHABLE
        assert await there.tell("kbs") == "done"
        fetched = await there.hub.get_resource("kbs:///default/key/1", soon())
        assert fetched.secret.reveal() == b"late secret"
        assert await there.tell(f"rest http://{REST}/cdh/resource/default/key/1") == "late secret"
        assert await there.tell("count") == "1"
        assert there.agent.process.pid == pid
        assert there.agent.process.returncode is None
        os.kill(pid, 0)


async def test_a_request_that_waits_is_served_as_soon_as_the_broker_is_there(tmp_path: Path) -> None:
    async with guest(tmp_path.resolve()) as there:
        patient = asyncio.ensure_future(there.hub.get_resource("kbs:///default/key/1", soon(30)))
        await there.refused()
        there.hosts.write_text("127.0.0.1 kbs.test\n")
        assert await there.tell("network") == "done"
        assert await there.tell("kbs") == "done"
        assert (await patient).secret.reveal() == b"late secret"
        assert await there.tell("count") == "1"
