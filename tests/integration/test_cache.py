"""The resource cache from the outside: what it saves, what it says, and when it lets go."""

from __future__ import annotations

import asyncio
import json
import resource
import stat
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.config.model import Cache, CacheRule
from agent.devkit import demo
from agent.devkit.kbs import DevKbs, Fault
from agent.devkit.playground import playground
from agent.hub.sealing import keygen, seal_vault
from agent.roles import Freshness
from agent.serve.ttrpc.remote import RemoteHub
from tests.integration.support import http, program, run, said, soon, visible
from tests.integration.test_programs import free_port, until_listening, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.devkit.playground import Playground
    from tests.integration.support import Answer

pytestmark = pytest.mark.integration

JSON = {"Accept": "application/json"}
KEPT = Cache((CacheRule("default/*/*", 300, 600),), negative_ttl=3)
SHORT = Cache((CacheRule("default/*/*", 0.4, 600),), negative_ttl=0)
PATH = "default/key/1"


@asynccontextmanager
async def kept(cache: Cache = KEPT) -> AsyncIterator[Playground]:
    async with playground(cache=cache) as place:
        place.kbs.put(PATH, b"value")
        yield place


async def get(place: Playground, path: str = PATH, **headers: str) -> Answer:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http(f"{place.rest}/cdh/resource/{path}", headers={**JSON, **fields})


def cost(place: Playground) -> int:
    return place.kbs.counters["requests"]


async def test_a_hit_costs_the_broker_nothing() -> None:
    async with kept() as place:
        first = await get(place)
        assert (first.body, first.headers["x-cache"], first.headers["age"]) == (b"value", "MISS", "0")
        before = cost(place)
        for _ in range(20):
            answer = await get(place)
            assert (answer.status, answer.body, answer.headers["x-cache"]) == (200, b"value", "HIT")
            assert answer.headers["age"].isdigit()
        assert cost(place) == before
        assert place.kbs.counters["attest"] == 1


async def test_by_default_every_request_asks_the_broker() -> None:
    async with playground() as place:
        place.kbs.put(PATH, b"value")
        await get(place)
        before = place.kbs.counters["resource"]
        for number in range(1, 4):
            assert (await get(place)).headers["x-cache"] == "MISS"
            assert place.kbs.counters["resource"] == before + number


async def test_a_thousand_callers_of_one_kept_name_cost_one_request() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    async with kept() as place:
        answers = await asyncio.gather(*(get(place) for _ in range(1000)))
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"value")}
        assert place.kbs.counters["resource"] == 1
        again = await asyncio.gather(*(get(place) for _ in range(1000)))
        assert {answer.headers["x-cache"] for answer in again} == {"HIT"}
        assert (place.kbs.counters["resource"], place.kbs.counters["attest"]) == (1, 1)


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_caller_can_have_the_broker_asked(how: str) -> None:
    async with kept() as place:
        await get(place)
        place.kbs.put(PATH, b"rotated")
        assert (await get(place)).body == b"value"
        answer = await (
            get(place, Cache_Control="no-cache") if how == "header" else get(place, f"{PATH}?refresh=1")
        )
        assert (answer.body, answer.headers["x-cache"]) == (b"rotated", "MISS")
        assert ((await get(place)).body, place.kbs.counters["resource"]) == (b"rotated", 2)


async def test_a_denial_after_a_hit_takes_it_away() -> None:
    async with kept() as place:
        await get(place)
        place.kbs.deny("default/*")
        assert (await get(place)).headers["x-cache"] == "HIT"  # what the operator asked for: ttl
        assert (await get(place, Cache_Control="no-cache")).status == 403
        before = cost(place)
        refused = await get(place)
        assert (refused.status, refused.json()["code"]) == (403, "RESOURCE_DENIED")
        assert "x-cache" not in refused.headers
        assert cost(place) == before  # remembered for a moment
        await place.kbs.stop()
        answer = await get(place, Cache_Control="no-cache", Prefer="wait=2")
        assert answer.status == 503


async def test_a_broker_that_is_down_is_stood_in_for_within_max_stale() -> None:
    async with kept(SHORT) as place:
        await get(place)
        await place.kbs.stop()
        await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        answer = await get(place)
        assert (answer.status, answer.body, answer.headers["x-cache"]) == (200, b"value", "STALE")
        assert asyncio.get_running_loop().time() - began < 10
        forced = await get(place, Cache_Control="no-cache", Prefer="wait=2")
        assert (forced.status, forced.json()["code"]) == (503, "KBS_UNREACHABLE")
        metrics = (await http(f"{place.rest}/metrics")).body.decode()
        assert 'coco_resource_cache_requests_total{result="stale"} 1.0' in metrics
        await place.kbs.start(port=int(place.kbs.url.rpartition(":")[2]))
        assert (await get(place)).headers["x-cache"] == "MISS"


async def test_past_max_stale_there_is_an_error() -> None:
    async with kept(Cache((CacheRule("default/*/*", 0.2, 0.2),))) as place:
        await get(place)
        await place.kbs.stop()
        await asyncio.sleep(0.5)
        answer = await get(place, Prefer="wait=2")
        assert (answer.status, answer.json()["code"]) == (503, "KBS_UNREACHABLE")


async def test_a_missing_resource_is_found_soon_after_it_is_put() -> None:
    async with kept(Cache(negative_ttl=0.3)) as place:
        assert (await get(place, "default/late/1")).status == 404
        before = cost(place)
        assert (await get(place, "default/late/1")).status == 404
        assert cost(place) == before
        place.kbs.put("default/late/1", b"late")
        assert (await get(place, "default/late/1", Cache_Control="no-cache")).body == b"late"
        await asyncio.sleep(0.35)
        assert (await get(place, "default/late/1")).body == b"late"


async def test_sealed_secrets_and_image_keys_go_the_same_way_and_signing_keys_are_never_stale() -> None:
    async with kept(SHORT) as place:
        private, public = keygen("kbs:///default/signing-key/1")
        place.kbs.put("default/signing-key/1", public)
        sealed = seal_vault(f"kbs:///{PATH}", "kbs:///default/signing-key/1", private.reveal()).encode()
        hub = RemoteHub(place.hub_socket)
        assert (await hub.unseal(sealed, soon())).reveal() == b"value"
        before = cost(place)
        assert (await hub.get_resource(f"kbs:///{PATH}", soon())).freshness in {
            Freshness.HIT,
            Freshness.MISS,  # a slow machine
        }
        assert cost(place) <= before + 1
        await place.kbs.stop()
        await asyncio.sleep(0.5)
        stale = await hub.get_resource(f"kbs:///{PATH}", soon())
        assert (stale.secret.reveal(), stale.freshness) == (b"value", Freshness.STALE)
        with pytest.raises(Exception, match="KBS_UNREACHABLE"):
            await hub.unseal(sealed, soon(2))
        await hub.close()


async def test_unsealing_again_costs_nothing() -> None:
    async with kept() as place:
        material = demo.prepare(place.kbs)
        hub = RemoteHub(place.hub_socket)
        await hub.unseal(material.sealed.encode(), soon())
        await hub.unwrap_key(material.key_request, soon())
        before = cost(place)
        assert (await hub.unseal(material.sealed.encode(), soon())).reveal() == material.password
        await hub.unwrap_key(material.key_request, soon())
        assert cost(place) == before
        await hub.close()


async def test_the_control_socket_lists_and_drops_and_is_private() -> None:
    async with kept() as place:
        await get(place)
        await get(place, "default/typo/1")
        socket = place.control_socket
        assert stat.S_IMODE(Path(socket.removeprefix("unix://")).stat().st_mode) == 0o600
        status, output, errors = await run("coco-agent", "cache", "list", "--json", "-s", socket)
        assert (status, errors) == (0, "")
        entries = {entry["name"]: entry for entry in json.loads(output)["entries"]}
        assert entries[f"kbs:///{PATH}"]["state"] == "fresh"
        assert entries[f"kbs:///{PATH}"]["size"] == 5
        assert b"value" not in output
        status, output, _ = await run("coco-agent", "cache", "list", "-s", socket)
        assert output.splitlines()[0].split() == [b"STATE", b"BYTES", b"AGE", b"LEFT", b"NAME"]
        dropped = await run("coco-agent", "cache", "drop", f"kbs:///{PATH}", "-s", socket)
        assert dropped[:2] == (0, b"1 dropped\n")
        assert (await get(place)).headers["x-cache"] == "MISS"
        status, output, _ = await run("coco-agent", "cache", "drop", "--all", "--json", "-s", socket)
        assert json.loads(output)["dropped"] >= 1
        assert (await run("coco-agent", "cache", "list", "-s", socket))[1] == b"nothing is kept\n"
        for wrong in ((), (f"kbs:///{PATH}", "--all")):
            assert (await run("coco-agent", "cache", "drop", *wrong, "-s", socket))[0] == 1


async def test_a_control_socket_that_cannot_be_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path.resolve()
    (folder / "plain").write_bytes(b"")
    cdh = write(folder, "cdh.toml", f'socket = "unix://{folder}/cdh.sock"\n[kbc]\nname = "offline_fs_kbc"\n')
    own = write(folder, "agent.toml", f'[control]\nsocket = "unix://{folder}/plain/control.sock"\n')
    async with program(folder, "confidential-data-hub", "-c", cdh, "--agent-config", own) as hub:
        await visible(folder / "cdh.sock", hub)
        await said(hub, "no control socket")
        assert await hub.stop() == 0


async def test_three_processes_say_how_fresh_it_is_too(tmp_path: Path) -> None:
    folder, port = tmp_path.resolve(), free_port()
    aa, cdh = folder / "aa.sock", folder / "cdh.sock"
    async with DevKbs() as kbs:
        kbs.put(PATH, b"value")
        aa_toml = write(folder, "aa.toml", f'[token_configs.kbs]\nurl = "{kbs.url}"\n')
        cdh_toml = write(
            folder,
            "cdh.toml",
            f'socket = "unix://{cdh}"\n[aa]\naa_socket = "unix://{aa}"\n'
            f'[kbc]\nname = "cc_kbc"\nurl = "{kbs.url}"\n',
        )
        own = write(
            folder,
            "agent.toml",
            '[attester]\nallow_sample = true\n[cache]\nrules = [{ pattern = "default/*/*", ttl = 300 }]\n'
            f'[control]\nsocket = "unix://{folder}/control.sock"\n',
        )
        more = ("--agent-config", own)
        async with (
            program(folder, "attestation-agent", "-a", f"unix://{aa}", "-c", aa_toml, *more) as first,
            program(folder, "confidential-data-hub", "-c", cdh_toml, *more) as second,
            program(
                folder, "api-server-rest", "--bind", f"127.0.0.1:{port}", "-c", f"unix://{cdh}", *more
            ) as third,
        ):
            await visible(aa, first)
            await visible(cdh, second)
            await until_listening(port)
            url = f"http://127.0.0.1:{port}/cdh/resource/{PATH}"
            shown = [(await http(url)).headers["x-cache"] for _ in range(3)]
            assert shown == ["MISS", "HIT", "HIT"]
            assert (await http(f"{url}?refresh=1")).headers["x-cache"] == "MISS"
            assert kbs.counters["resource"] == 2
            assert third.process.returncode is None


async def test_who_joins_a_fetch_and_cannot_wait_hears_what_it_waits_for(place: Playground) -> None:
    place.kbs.put("default/key/1", b"value")
    place.kbs.put("default/key/2", b"value")
    url = f"{place.rest}/cdh/resource/default/key"
    assert (await http(f"{url}/2")).status == 200
    arrived, gate = asyncio.Event(), asyncio.Event()
    place.kbs.faults.on("resource", Fault("hold", gate=gate, arrived=arrived))
    patient = asyncio.create_task(http(f"{url}/1"))
    await arrived.wait()
    hurried = await http(f"{url}/1", headers={"Accept": "application/json", "Prefer": "wait=1"})
    gate.set()
    assert (hurried.status, hurried.json()["code"]) == (504, "KBS_TIMEOUT")
    assert (await patient).body == b"value"
