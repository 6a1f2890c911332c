"""Faults of the guest itself: no descriptors left, no space left. Programs of their own, as in a guest."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.devkit.kbs import DevKbs
from agent.protos import confidential_data_hub_pb2 as cdh
from tests.integration import mini_ttrpc
from tests.integration.faults.stage import SAID, ask
from tests.integration.support import BIN, CLEAN_ENVIRONMENT, http, run
from tests.integration.test_programs import free_port, until_listening, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

pytestmark = pytest.mark.integration

DESCRIPTORS = 48
WAIT = 2
GET = mini_ttrpc.request(
    "api.GetResourceService",
    "GetResource",
    cdh.GetResourceRequest(ResourcePath="kbs:///default/key/1").SerializeToString(),
    int(WAIT * 1e9),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def arguments(folder: Path, sockets: Path, kbs_url: str, port: int) -> tuple[str, ...]:
    broker = f'url = "{kbs_url}"\n'
    aa = write(folder, "aa.toml", f"[token_configs.kbs]\n{broker}")
    hub = write(folder, "cdh.toml", f'socket = "unix://{sockets}/cdh.sock"\n[kbc]\nname = "cc_kbc"\n{broker}')
    own = write(
        folder,
        "agent.toml",
        '[attester]\nallow_sample = true\n[observe]\nlog_level = "trace"\n[control]\nsocket = ""\n',
    )
    return (
        "serve",
        *("--aa-config", aa, "--cdh-config", hub, "--agent-config", own),
        *("--attestation-sock", f"unix://{sockets}/aa.sock"),
        *("--bind", f"127.0.0.1:{port}", "--features", "all"),
    )


@asynccontextmanager
async def limited(
    limits: str, stderr: Path, *options: str, mode: str = "wb"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The agent under limits of the shell."""
    with stderr.open(mode) as log:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", f'{limits}; exec "$@"', "sh", str(BIN / "coco-agent"), *options),
            stderr=log,
            env=CLEAN_ENVIRONMENT,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 20)


def descriptors(process: asyncio.subprocess.Process) -> int:
    return sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


@pytest.mark.skipif(
    "CI" not in os.environ and os.geteuid() != 0,
    reason="needs root: the agent is not dumpable, so nobody else may count its descriptors",
)
async def test_without_descriptors_there_is_a_code_and_then_all_is_well(folder: Path) -> None:
    port, log, hub = free_port(), folder / "log", folder / "cdh.sock"
    async with DevKbs() as kbs:
        kbs.put("default/key/1", b"CANARY-value")
        options = arguments(folder, folder, kbs.url, port)
        async with limited(f"ulimit -n {DESCRIPTORS}", log, *options) as process:
            await until_listening(port)
            held = await asyncio.open_unix_connection(str(hub))
            assert await ask(*held, 1, GET) == (0, "", b"\x0a\x0cCANARY-value")
            crowd, before = [held[1]], descriptors(process)
            try:
                await kbs.stop()  # the connection that is kept to the broker goes first
                await until(lambda: descriptors(process) < before)
                connect = [asyncio.open_unix_connection(str(hub)) for _ in range(DESCRIPTORS + 16)]
                crowd += [writer for _, writer in await asyncio.gather(*connect)]
                await until(lambda: descriptors(process) >= DESCRIPTORS)
                await kbs.start(port=kbs.port)
                began = asyncio.get_running_loop().time()
                status, message, value = await ask(*held, 3, GET)
                assert asyncio.get_running_loop().time() - began < WAIT * 1.05 + 1
                said = SAID.search(message)
                assert said is not None, (status, message, value, descriptors(process))
                assert (said[1], value) == ("GUEST_EXHAUSTED", b""), log.read_text()[-2000:]
                assert status == 8
                for writer in crowd[1:]:
                    writer.close()
                status, message, value = await ask(*held, 5, GET)
                assert (status, value) == (0, b"\x0a\x0cCANARY-value"), message
            finally:
                for writer in crowd:
                    writer.close()
            answer = await http(f"http://127.0.0.1:{port}/cdh/resource/default/key/1")
            assert answer.body == b"CANARY-value"
            assert process.returncode is None
    text = log.read_text()
    assert "CANARY" not in text
    # Said once and not for every connection that waits: the console is slow, and other lines matter more.
    assert text.count("new connections wait") == 1
    assert "out of system resource" not in text


async def test_a_full_disk_under_the_log_stops_nobody(folder: Path) -> None:
    port = free_port()
    async with DevKbs() as kbs:
        kbs.put("default/key/1", b"value")
        options = arguments(folder, folder, kbs.url, port)
        async with limited(":", Path("/dev/full"), *options) as process:
            await until_listening(port)
            url = f"http://127.0.0.1:{port}/cdh/resource/default/key"
            good = await asyncio.gather(*(http(f"{url}/1") for _ in range(50)))
            assert {(answer.status, answer.body) for answer in good} == {(200, b"value")}
            missing = await http(f"{url}/2", headers={"Accept": "application/json"})
            assert missing.json()["code"] == "RESOURCE_NOT_FOUND"
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 20) == 0


@pytest.fixture
def full(folder: Path) -> Iterator[Path]:
    """A folder of a file system without space."""
    made = folder / "full"
    made.mkdir()
    options = ("-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "none", str(made))
    if subprocess.run(("mount", *options), capture_output=True, check=False).returncode != 0:
        assert "CI" not in os.environ, "in CI nothing is skipped"
        pytest.skip("needs the right to mount a full tmpfs")
    yield made
    subprocess.run(("umount", str(made)), check=True)


async def test_a_full_disk_under_a_socket_is_said_at_start(folder: Path, full: Path) -> None:
    options = arguments(folder, full, "http://127.0.0.1:1", free_port())
    status, _, errors = await run("coco-agent", *options)
    assert status == 1
    assert "CONFIG_INVALID" in errors
    assert "No space left on device" in errors
    assert list(full.iterdir()) == []
