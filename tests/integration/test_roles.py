"""Roles that come and go while the daemon runs."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.config.model import Attester, Config, Control, Features, Gateway, Hub, Kbs
from agent.daemon import Daemon
from agent.devkit.kbs import DevKbs
from agent.errors import AgentError, ErrorCode
from agent.roles import Role
from tests.integration.support import http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.integration

PATH = "/cdh/resource/default/key/1"
ATTESTER = frozenset({Role.ATTESTER})


def configured(folder: Path, url: str) -> Config:
    aa, cdh, broker = f"unix://{folder}/aa.sock", f"unix://{folder}/cdh.sock", Kbs(url=url)
    return Config(
        attester=Attester(socket=aa, kbs=broker, allow_sample=True),
        hub=Hub(socket=cdh, kbc="cc_kbc", kbs=broker, aa_socket=aa),
        gateway=Gateway(bind="127.0.0.1:0", features=Features.ALL, cdh_address=cdh, aa_address=aa),
        control=Control(""),
    )


@asynccontextmanager
async def running(daemon: Daemon) -> AsyncIterator[Daemon]:
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


async def test_roles_opened_later_share_one_attestation(tmp_path: Path) -> None:
    async with DevKbs() as kbs:
        kbs.put("default/key/1", b"value")
        config = configured(tmp_path.resolve(), kbs.url)
        async with running(Daemon(config, ATTESTER)) as daemon:
            assert not (tmp_path / "cdh.sock").exists()
            await daemon.open(Role.HUB, config)
            await daemon.open(Role.GATEWAY, config)
            assert (await http(f"{daemon.rest_url}{PATH}")).body == b"value"
            assert (await http(f"{daemon.rest_url}/aa/token?token_type=kbs")).status == 200
            assert kbs.counters["attest"] == 1


async def test_what_the_roles_read_alike_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(configured(tmp_path.resolve(), "http://127.0.0.1:1"), warnings=("one", "two"))
    async with running(Daemon(config, ATTESTER)) as daemon:
        await daemon.open(Role.HUB, replace(config, warnings=("two", "three")))
        await daemon.open(Role.GATEWAY, config)
    said = [vars(record)["reason"] for record in caplog.records if record.getMessage() == "configuration"]
    assert said == ["one", "two", "three"]


async def test_the_gateway_follows_a_hub_that_is_opened_anew(tmp_path: Path) -> None:
    async with DevKbs() as kbs, DevKbs() as other:
        kbs.put("default/key/1", b"value")
        other.trust(kbs.signer)
        other.put("default/key/1", b"other value")
        config = configured(tmp_path.resolve(), kbs.url)
        async with running(Daemon(config, ATTESTER)) as daemon:
            await daemon.open(Role.GATEWAY, config)
            away = await http(f"{daemon.rest_url}{PATH}", headers={"Accept": "application/json"})
            assert away.json()["code"] == "ROLE_UNREACHABLE"
            await daemon.open(Role.HUB, config)
            assert (await http(f"{daemon.rest_url}{PATH}")).body == b"value"
            second = replace(config, hub=replace(config.hub, kbs=Kbs(url=other.url)))
            await daemon.open(Role.HUB, second)
            assert (await http(f"{daemon.rest_url}{PATH}")).body == b"other value"
            await daemon.close(Role.HUB)
            assert not (tmp_path / "cdh.sock").exists()
            gone = await http(f"{daemon.rest_url}{PATH}", headers={"Accept": "application/json"})
            assert gone.json()["code"] == "ROLE_UNREACHABLE"


async def test_roles_elsewhere_are_reached_by_their_sockets(tmp_path: Path) -> None:
    """Upstream's hub between our attester and our gateway, as far as these two can tell."""
    async with DevKbs() as kbs:
        kbs.put("default/key/1", b"value")
        config = configured(tmp_path.resolve(), kbs.url)
        hub = Daemon(config, frozenset({Role.HUB}))
        async with running(Daemon(config, ATTESTER)) as daemon, running(hub):
            await daemon.open(Role.GATEWAY, config)
            assert (await http(f"{daemon.rest_url}{PATH}")).body == b"value"
            assert kbs.counters["attest"] == 1


async def test_a_hub_that_looks_for_another_attester_asks_that_one(tmp_path: Path) -> None:
    async with DevKbs() as kbs:
        config = configured(tmp_path.resolve(), kbs.url)
        nowhere = replace(config, hub=replace(config.hub, aa_socket=f"unix://{tmp_path}/nobody.sock"))
        async with running(Daemon(config, ATTESTER)) as daemon:
            await daemon.open(Role.HUB, nowhere)
            await daemon.open(Role.GATEWAY, config)
            answer = await http(f"{daemon.rest_url}{PATH}", headers={"Accept": "application/json"})
            assert answer.json()["code"] == "ROLE_UNREACHABLE"
            assert kbs.counters["attest"] == 0


async def test_an_attester_whose_socket_another_program_has_is_not_asked(tmp_path: Path) -> None:
    """Kata deletes the socket and starts another program there: the hub is that one's."""
    async with DevKbs() as kbs, DevKbs() as other:
        other.put("default/key/1", b"value")
        config = configured(tmp_path.resolve(), kbs.url)
        theirs = configured(tmp_path.resolve(), other.url)
        async with running(Daemon(config, ATTESTER)) as daemon, running(Daemon(theirs, ATTESTER)):
            await daemon.open(Role.HUB, theirs)
            await daemon.open(Role.GATEWAY, theirs)
            assert (await http(f"{daemon.rest_url}{PATH}")).body == b"value"
            assert (kbs.counters["attest"], other.counters["attest"]) == (0, 1)


async def test_what_cannot_be_bound_leaves_the_others_alone(tmp_path: Path) -> None:
    async with DevKbs() as kbs:
        config = configured(tmp_path.resolve(), kbs.url)
        async with running(Daemon(config, ATTESTER)) as daemon:
            (tmp_path / "plain").write_text("")
            wrong = replace(config, hub=replace(config.hub, socket=f"unix://{tmp_path}/plain/cdh.sock"))
            with pytest.raises(AgentError) as refused:
                await daemon.open(Role.HUB, wrong)
            assert refused.value.code is ErrorCode.CONFIG_INVALID
            assert daemon.hub is None
            await daemon.open(Role.HUB, config)
            assert (tmp_path / "cdh.sock").exists()


async def test_the_attester_is_never_opened_later(tmp_path: Path) -> None:
    """Init-data is bound before anything is served."""
    config = configured(tmp_path.resolve(), "")
    async with running(Daemon(config, frozenset({Role.HUB}))) as daemon:
        with pytest.raises(AgentError):
            await daemon.open(Role.ATTESTER, config)
        assert daemon.attester is None
