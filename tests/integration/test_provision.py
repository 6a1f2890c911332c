"""``[[credentials]]`` in a running agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.config.model import Attester, Config, Control, Credential, Features, Gateway, Hub, Kbs
from agent.daemon import Daemon
from agent.devkit.kbs import DevKbs
from agent.hub.provision import Provisioner
from tests.integration.support import http

if TYPE_CHECKING:
    from pathlib import Path

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

FOLDER = "/run/confidential-containers/cdh/kbs"


async def test_the_socket_never_waits_and_the_state_shows(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    # Nothing is there to be written: the file's place is outside of what a test may touch.
    missing = Credential(f"{FOLDER}/coco-test/never", "kbs:///default/not/there")
    async with DevKbs() as kbs:
        kbs.put("default/key/1", b"value")
        config = Config(
            attester=Attester(socket=f"unix://{folder}/aa.sock", kbs=Kbs(url=kbs.url), allow_sample=True),
            hub=Hub(
                socket=f"unix://{folder}/cdh.sock",
                kbc="cc_kbc",
                kbs=Kbs(url=kbs.url),
                credentials=(missing, replace(missing, path=f"{FOLDER}/coco-test/neither")),
            ),
            gateway=Gateway(bind="127.0.0.1:0", features=Features.ALL),
            control=Control(""),
        )
        daemon = Daemon(config)
        await daemon.start()
        try:
            assert (await http(f"{daemon.rest_url}/cdh/resource/default/key/1")).body == b"value"
            reason = None
            for _ in range(1000):
                ready = (await http(f"{daemon.rest_url}/readyz")).json()
                if (reason := ready["reasons"]) == ["RESOURCE_NOT_FOUND"]:
                    break
                await asyncio.sleep(0.01)
            assert reason == ["RESOURCE_NOT_FOUND"]
            metrics = (await http(f"{daemon.rest_url}/metrics")).body.decode()
            assert 'coco_credentials{state="failed"} 2.0' in metrics
            assert 'coco_credentials{state="written"} 0.0' in metrics
            assert 'api="file"' in metrics
        finally:
            await asyncio.wait_for(daemon.stop(), 10)


async def test_a_credential_comes_once_the_broker_has_it(place: Playground, tmp_path: Path) -> None:
    assert place.daemon.hub is not None
    tried, uploaded = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        tried.set()
        await uploaded.wait()

    provisioner = Provisioner(
        [Credential(f"{FOLDER}/kms-credential/aws/credential.json", "kbs:///default/aws/credential")],
        place.daemon.hub._fetch_credential,
        root=str(tmp_path),
        sleep=sleep,
    )
    provisioner.start()
    await asyncio.wait_for(tried.wait(), 20)
    assert provisioner.reason() == "RESOURCE_NOT_FOUND"
    place.kbs.put("default/aws/credential", b"{}")
    uploaded.set()
    await asyncio.wait_for(asyncio.gather(*provisioner._tasks), 20)
    assert provisioner.reason() is None
    written = tmp_path / FOLDER.lstrip("/") / "kms-credential/aws/credential.json"
    assert written.read_bytes() == b"{}"
    await provisioner.stop()


async def test_without_credentials_there_is_nothing_of_it(place: Playground) -> None:
    assert place.daemon.hub is not None
    assert place.daemon.hub.provisioner is None
    assert b"coco_credentials" not in (await http(f"{place.rest}/metrics")).body
