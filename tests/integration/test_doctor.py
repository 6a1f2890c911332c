"""`coco-agent doctor` against real brokers, and what its bundle holds."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.config.model import Kbs, KbsServer
from agent.devkit.clock import FakeClock
from agent.devkit.kbs import DevKbs
from agent.devkit.pki import Authority
from agent.doctor import network
from tests.integration.support import run
from tests.unit.doctor.patients import patient

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CANARY = "Canary7secret7Canary"


async def doctor(
    folder: Path, url: str, *options: str, cert: str = ""
) -> tuple[int, dict[str, dict[str, str]]]:
    (folder / "root").mkdir(exist_ok=True)
    aa = folder / "aa.toml"
    lines = ["[token_configs.kbs]", f'url = "{url}"']
    aa.write_text("\n".join([*lines, f"cert = '''\n{cert}'''" if cert else ""]))
    aa.chmod(0o600)
    status, output, errors = await run(
        *(
            "coco-agent",
            "doctor",
            "--json",
            "--aa-config",
            str(aa),
            "--sysroot",
            str(folder / "root"),
            *options,
        )
    )
    assert output, errors
    findings = json.loads(output)["findings"]
    assert all(finding["next"] for finding in findings if finding["verdict"] == "bad"), findings
    return status, {f"{finding['area']}: {finding['name']}": finding for finding in findings}


async def test_a_broker_that_is_well(tmp_path: Path) -> None:
    async with DevKbs() as kbs:
        _, found = await doctor(tmp_path, kbs.url)
    for step in ("name", "route", "connection", "challenge"):
        assert found[f"key broker: {step}"]["verdict"] == "good", found
    assert found["key broker: TLS"]["verdict"] == "warning"
    assert found["platform: TEE"]["verdict"] == "bad"


async def test_tls_trusted_and_not(tmp_path: Path) -> None:
    authority = Authority()
    identity = authority.issue()
    async with DevKbs(tls=identity.context()) as kbs:
        _, found = await doctor(tmp_path, kbs.url, cert=authority.pem)
        assert found["key broker: TLS"]["verdict"] == "good", found
        assert found["clock: against the broker's"]["verdict"] == "good"
        status, found = await doctor(tmp_path, kbs.url, cert=Authority().pem)
    assert status == 1
    assert found["key broker: TLS"]["verdict"] == "bad"
    assert "KBS_TLS_FAILED" in found["key broker: TLS"]["seen"]


async def test_a_port_without_tls_is_no_matter_of_certificates(tmp_path: Path) -> None:
    async with DevKbs() as kbs:
        _, found = await doctor(tmp_path, kbs.url.replace("http://", "https://"))
    assert found["key broker: TLS"]["verdict"] == "bad"
    assert "KBS_NOT_TLS" in found["key broker: TLS"]["seen"]
    assert "http://" in found["key broker: TLS"]["next"]


@pytest.mark.parametrize(
    ("pinned", "days", "verdict"), [(False, 0, "good"), (False, 20, "warning"), (True, 20, "good")]
)
async def test_a_certificate_that_ends_soon(pinned: bool, days: int, verdict: str, tmp_path: Path) -> None:
    authority = Authority()
    identity = authority.issue()  # ends in 30 days
    kbs = Kbs(pins=(identity.pin,)) if pinned else Kbs(extra_roots=authority.pem)
    async with DevKbs(tls=identity.context()) as broker:
        looked_at = patient(tmp_path, kbs=replace(kbs, url=broker.url))
        looked_at = replace(looked_at, clock=FakeClock(wall=time.time() + days * 86400))
        found = [each async for each in network.broker(looked_at)]
    (shown,) = [each for each in found if each.name == "TLS"]
    assert shown.verdict.value == verdict
    assert identity.cert.not_valid_after_utc.strftime("ends %Y-%m-%d") in shown.seen
    assert bool(shown.next_step) is (verdict == "warning")


async def test_each_endpoint_is_checked_by_its_own_trust(tmp_path: Path) -> None:
    one, two = Authority(), Authority()
    async with DevKbs(tls=one.issue().context()) as first, DevKbs(tls=two.issue().context()) as second:
        servers = (KbsServer(first.url, extra_roots=one.pem), KbsServer(second.url, extra_roots=two.pem))
        looked_at = patient(tmp_path, kbs=Kbs(url=first.url, endpoints=servers))
        found = [each async for each in network.broker(looked_at)]
    assert [each.verdict.value for each in found if each.name == "TLS"] == ["good", "good"]


async def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        _, found = await doctor(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "refused" in found["key broker: connection"]["seen"].lower()
    assert "KBS_UNREACHABLE" in found["key broker: challenge"]["seen"]


async def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    _, found = await doctor(tmp_path, "http://no-such-host.invalid:8080")
    assert "KBS_DNS_FAILED" in found["key broker: name"]["seen"]


async def test_offline_leaves_the_broker_alone(tmp_path: Path) -> None:
    async with DevKbs() as kbs:
        _, found = await doctor(tmp_path, kbs.url, "--offline")
        assert not kbs.seen
    assert not [name for name in found if name.startswith("key broker")]


@pytest.mark.parametrize("proxy", ["", f"http://user:{CANARY}@127.0.0.1:1"])
async def test_the_bundle_holds_findings_and_no_secret(proxy: str, tmp_path: Path) -> None:
    agent = tmp_path / "agent.toml"
    agent.write_text(f'[kbs]\nproxy = "{proxy}"\n' if proxy else "")
    agent.chmod(0o600)
    target = tmp_path / "support.tar.gz"
    url = "http://broker.tenant-name.example:8080"
    await doctor(tmp_path, url, "--agent-config", str(agent), "--bundle", str(target))
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(target.read_bytes())) as archive:
        texts = {
            member.name: (archive.extractfile(member) or io.BytesIO()).read().decode() for member in archive
        }
    assert {name.rpartition("/")[2] for name in texts} == {"findings.json", "configuration.txt", "guest.txt"}
    whole = "".join(texts.values())
    assert "platform" in whole
    assert CANARY not in whole
    assert "tenant-name" not in whole
