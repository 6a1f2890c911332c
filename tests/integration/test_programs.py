"""The installed programs, started as kata-agent starts the Rust ones (kata_integration.md 1.1-1.3, 9)."""

from __future__ import annotations

import asyncio
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from agent.devkit.kbs import DevKbs
from tests.integration.support import BIN, http, program, run, visible

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


async def test_three_launchers_in_katas_order_do_the_main_job(folder: Path) -> None:
    aa, cdh, port = folder / "aa" / "attestation-agent.sock", folder / "cdh.sock", free_port()
    agent_toml = write(folder, "agent.toml", "[attester]\nallow_sample = true\n")
    async with DevKbs() as kbs:
        kbs.put("default/aa/key", b"aatest")
        aa_toml = write(folder, "aa.toml", f'[token_configs.kbs]\nurl = "{kbs.url}"\n')
        cdh_toml = write(
            folder,
            "cdh.toml",
            f'socket = "unix://{cdh}"\n[aa]\naa_socket = "unix://{aa}"\n'
            f'[kbc]\nname = "cc_kbc"\nurl = "{kbs.url}"\n',
        )
        async with program(
            folder, "attestation-agent", "--attestation_sock", f"unix://{aa}", "-c", aa_toml,
            "--agent-config", agent_toml,
        ) as first:  # fmt: skip
            await visible(aa, first)
            assert connects(aa)
            async with program(folder, "confidential-data-hub", "-c", cdh_toml) as second:
                await visible(cdh, second)
                assert connects(cdh)
                arguments = ("--features", "all", "--bind", f"127.0.0.1:{port}")
                addresses = ("--cdh_addr", f"unix://{cdh}", "--aa_addr", f"unix://{aa}")
                async with program(folder, "api-server-rest", *arguments, *addresses) as third:
                    await until_listening(port)
                    url = f"http://127.0.0.1:{port}"
                    assert (await http(f"{url}/cdh/resource/default/aa/key")).body == b"aatest"
                    assert (await http(f"{url}/info")).json()["tee"] == "sample"
                    missing = await http(
                        f"{url}/cdh/resource/default/aa/typo", headers={"Accept": "application/json"}
                    )
                    assert (missing.status, missing.json()["code"]) == (404, "RESOURCE_NOT_FOUND")
                    assert kbs.counters["attest"] == 1
                    assert [await third.stop(), await second.stop(), await first.stop()] == [0, 0, 0]
    assert not aa.exists()
    assert not cdh.exists()


async def until_listening(port: int) -> None:
    for _ in range(1500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return
    raise AssertionError("nothing listens")


async def test_the_hub_starts_without_an_attester_a_network_or_a_file(folder: Path) -> None:
    cdh = folder / "cdh.sock"
    cdh_toml = write(folder, "cdh.toml", f'socket = "unix://{cdh}"\n[kbc]\nname = "offline_fs_kbc"\n')
    async with program(folder, "confidential-data-hub", "-c", cdh_toml) as hub:
        await visible(cdh, hub)
        assert stat.S_ISSOCK(cdh.stat().st_mode)
        assert stat.S_IMODE(cdh.stat().st_mode) == 0o600
        assert await hub.stop() == 0


async def test_a_guest_without_tee_starts_and_says_why_it_proves_nothing(folder: Path) -> None:
    aa = folder / "aa.sock"
    async with program(
        folder, "attestation-agent", "-a", f"unix://{aa}", "-c", write(folder, "aa.toml", "")
    ) as agent:
        await visible(aa, agent)
        status, _, errors = await run("coco-agent", "evidence", "--socket", f"unix://{aa}", "--text", "x")
        assert status == 1
        assert "NO_TEE" in errors
        await agent.stop()
        assert '"NO_TEE"' in agent.logged()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("api-server-rest", "--features", "everything"), "everything"),
        (("api-server-rest", "--bind", "localhost:8006"), "gateway.bind"),
        (("attestation-agent", "-c", "/nonexistent/aa.toml"), "/nonexistent/aa.toml"),
        (("confidential-data-hub", "-c", "/nonexistent/cdh.toml"), "/nonexistent/cdh.toml"),
        (("attestation-agent", "-i", "not base64!"), "--initdata-digest"),
    ],
)
async def test_bad_settings_end_with_a_status_and_a_reason(command: tuple[str, ...], says: str) -> None:
    status, _, errors = await run(*command)
    assert status == 1
    assert says in errors
    assert "CONFIG_INVALID" in errors


async def test_a_bad_file_leaves_no_socket(folder: Path) -> None:
    aa = folder / "aa.sock"
    bad = write(folder, "aa.toml", "[token_configs.kbs\n")
    status, _, _ = await run("attestation-agent", "-a", f"unix://{aa}", "-c", bad)
    assert status == 1
    assert not aa.exists()


async def test_environment_cannot_select_sample_evidence(folder: Path) -> None:
    """SR-10: no unmeasured place may select a sample attester."""
    aa = folder / "aa.sock"
    environment = {"ENABLE_SAMPLE_DEVICE": "1", "ALLOW_SAMPLE": "true", "AA_SAMPLE_ATTESTER_TEST": "1"}
    arguments = ("-a", f"unix://{aa}", "-c", write(folder, "aa.toml", ""))
    async with program(folder, "attestation-agent", *arguments, environment=environment) as agent:
        await visible(aa, agent)
        for kind in ((), ("--additional",)):
            status, output, errors = await run("coco-agent", "evidence", *kind, "--socket", f"unix://{aa}")
            assert status == 1 or output.strip() == b"{}"
            assert b"report_data" not in output, errors


async def test_a_hub_of_its_own_recovers_when_the_broker_forgets_the_token(folder: Path) -> None:
    aa, cdh = folder / "aa.sock", folder / "cdh.sock"
    agent_toml = write(folder, "agent.toml", "[attester]\nallow_sample = true\n")
    async with DevKbs() as kbs:
        kbs.put("default/aa/key", b"aatest")
        aa_toml = write(folder, "aa.toml", f'[token_configs.kbs]\nurl = "{kbs.url}"\n')
        cdh_toml = write(
            folder,
            "cdh.toml",
            f'socket = "unix://{cdh}"\n[aa]\naa_socket = "unix://{aa}"\n'
            f'[kbc]\nname = "cc_kbc"\nurl = "{kbs.url}"\n',
        )
        first = ("attestation-agent", "-a", f"unix://{aa}", "-c", aa_toml, "--agent-config", agent_toml)
        async with program(folder, *first), program(folder, "confidential-data-hub", "-c", cdh_toml) as hub:
            await visible(aa)
            await visible(cdh, hub)
            get = ("coco-agent", "get", "kbs:///default/aa/key", "-s", f"unix://{cdh}")
            assert (await run(*get))[:2] == (0, b"aatest")
            kbs.rotate_signer()
            assert (await run(*get))[:2] == (0, b"aatest")
            assert kbs.counters["attest"] == 2


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
async def test_closed_standard_files_change_no_status(closed: str) -> None:
    process = await asyncio.create_subprocess_shell(
        f"exec {BIN / 'confidential-data-hub'} --nonsense {closed}", env={"PATH": "/usr/bin:/bin"}
    )
    assert await asyncio.wait_for(process.wait(), 20) == 2
