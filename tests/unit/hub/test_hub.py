"""The hub as its callers see it, over real offline stores and a stand-in for the broker."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent.config import model
from agent.errors import AgentError, ErrorCode
from agent.hub.hub import Hub
from agent.hub.image_keys import build_protocol_input, wrap
from agent.hub.sealing import keygen, seal_vault
from agent.observe.metrics import Metrics
from agent.secret import Secret
from tests.unit.hub import support
from tests.unit.hub.support import KEY_URI, TARGET_URI, soon

if TYPE_CHECKING:
    from pathlib import Path

    from agent.clock import Deadline
    from agent.config.uri import ResourceUri
    from agent.kbs.resources import ResourceClient
    from agent.roles import HubRole

KEK = bytes(range(32))


class Broker:
    """What the hub needs of a ``ResourceClient``."""

    def __init__(self, held: dict[str, bytes]) -> None:
        self.held = held
        self.asked: list[str] = []

    async def get(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        self.asked.append(uri.request_target)
        return Secret(self.held[uri.path])


def cc_hub(broker: Broker | None, **settings: Any) -> HubRole:
    client = cast("ResourceClient | None", broker)
    return Hub(model.Hub(kbc="cc_kbc", **settings), client, Metrics())


@pytest.fixture
def content() -> tuple[dict[str, bytes], str]:
    """What a broker or a store holds, and a sealed secret that leads there."""
    private, public = keygen(KEY_URI)
    held = {
        "one/2/trois": b"hunter2",
        "default/sealed-secret-key/1": public,
        "default/image-kek/1": KEK,
    }
    return held, seal_vault(TARGET_URI, KEY_URI, private.reveal())


async def test_an_offline_guest_has_everything(tmp_path: Path, content: tuple[dict[str, bytes], str]) -> None:
    held, sealed = content
    text = json.dumps({path: base64.b64encode(value).decode() for path, value in held.items()})
    path = support.write(tmp_path / "store.json", text.encode())
    await everything(Hub(model.Hub(offline_stores=(path,)), None, Metrics()), sealed)


async def test_a_broker_gives_everything(content: tuple[dict[str, bytes], str]) -> None:
    held, sealed = content
    broker = Broker(held)
    await everything(cc_hub(broker), sealed)
    assert broker.asked == [
        "resource/one/2/trois",
        "resource/default/sealed-secret-key/1",
        "resource/one/2/trois",
        "resource/default/image-kek/1",
    ]


async def everything(hub: HubRole, sealed: str) -> None:
    assert (await hub.get_resource(TARGET_URI, soon())).secret == Secret(b"hunter2")
    assert await hub.unseal(sealed.encode() + b"\n", soon()) == Secret(b"hunter2")
    packet = wrap(b'{"symkey":"AA=="}', KEK, "kbs:///default/image-kek/1")
    answer = await hub.unwrap_key(build_protocol_input(packet), soon())
    assert bytes(json.loads(answer.reveal())["keyunwrapresults"]["optsdata"]) == b'{"symkey":"AA=="}'


async def test_plugin_and_query_reach_the_broker() -> None:
    broker = Broker({"a/b": b"value"})
    fetched = await cc_hub(broker).get_resource("kbs+pkcs11:///a/b?x=y", soon())
    assert fetched.secret == Secret(b"value")
    assert broker.asked == ["pkcs11/a/b?x=y"]


@pytest.mark.parametrize(
    ("kbc", "code", "detail"),
    [
        ("cc_kbc", ErrorCode.KBS_NOT_CONFIGURED, "kbc.url"),
        (
            "sample_kbc",
            ErrorCode.KBC_UNKNOWN,
            "unknown kbc name sample_kbc, only support `cc_kbc`(feature `kbs`) and `offline_fs_kbc`.",
        ),
        ("", ErrorCode.KBC_UNKNOWN, "unknown kbc name"),
        ("CC_KBC", ErrorCode.KBC_UNKNOWN, "unknown kbc name"),
    ],
)
async def test_a_wrong_configuration_shows_at_first_use(kbc: str, code: ErrorCode, detail: str) -> None:
    hub = Hub(model.Hub(kbc=kbc), None, Metrics())
    for _ in range(2):
        with pytest.raises(AgentError) as caught:
            await hub.get_resource(TARGET_URI, soon())
        assert caught.value.code is code
        assert detail in caught.value.detail


async def test_settings_reach_the_sealed_secrets(content: tuple[dict[str, bytes], str]) -> None:
    held, sealed = content
    hub = cc_hub(Broker(held), sealed=model.SealedSecrets(trusted_kids=("kbs:///default/other/*",)))
    with pytest.raises(AgentError) as caught:
        await hub.unseal(sealed.encode(), soon())
    assert caught.value.code is ErrorCode.SEALED_KEY_UNTRUSTED
