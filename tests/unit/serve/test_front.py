from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from agent.attester import LocalAttester
from agent.config import limits
from agent.devkit.clock import FakeClock
from agent.devkit.sample import SampleAttester
from agent.errors import AgentError, ErrorCode
from agent.observe.audit import Audit
from agent.observe.metrics import Metrics
from agent.observe.redact import ResourceNames
from agent.roles import AttesterRole, Fetched, Freshness, HubRole, MeasurementResult
from agent.secret import Secret
from agent.serve.front import Front
from agent.tee.evidence_source import GuestEvidence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.clock import Deadline
    from agent.serve.access import Call

URI = "kbs:///default/key/1"


@dataclass
class StoreHub:
    """A hub with a few resources and a fault switch."""

    resources: dict[str, bytes] = field(default_factory=lambda: {URI: b"value-c4n4ry"})
    fault: BaseException | None = None
    hang: bool = False
    asked: int = 0

    async def get_resource(self, uri: str, deadline: Deadline, *, refresh: bool = False) -> Fetched:
        self.asked += 1
        if self.hang:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        if uri not in self.resources:
            raise AgentError(ErrorCode.RESOURCE_NOT_FOUND, f"{uri}: not in the store")
        return Fetched(Secret(self.resources[uri]))

    async def unseal(self, sealed: bytes, deadline: Deadline) -> Secret:
        self.asked += 1
        return Secret(sealed[::-1])

    async def unwrap_key(self, protocol_input: bytes, deadline: Deadline) -> Secret:
        self.asked += 1
        return Secret(protocol_input)


@dataclass
class World:
    front: Front
    hub: StoreHub
    metrics: Metrics
    audit: Audit
    clock: FakeClock
    log: pytest.LogCaptureFixture

    def call(self, timeout: float | None = None) -> Call:
        return self.front.call("rest", "127.0.0.1:4242", timeout)

    def audited(self) -> list[dict[str, Any]]:
        return [vars(r) for r in self.log.records if r.name == "coco.audit"]

    def count(self, verb: str, result: str) -> float | None:
        labels = {"api": "rest", "verb": verb, "result": result}
        return self.metrics.registry.get_sample_value("coco_requests_total", labels)

    def written(self) -> str:
        return "\n".join(str(vars(record)) for record in self.log.records)


def build(
    caplog: pytest.LogCaptureFixture,
    hub: HubRole | None,
    attester: AttesterRole | None,
    *,
    shown: bool = False,
) -> World:
    caplog.set_level(logging.DEBUG)
    metrics, audit, clock = Metrics(), Audit(ResourceNames(shown)), FakeClock()
    front = Front(hub=hub, attester=attester, metrics=metrics, audit=audit, clock=clock)
    store = hub if isinstance(hub, StoreHub) else StoreHub()
    return World(front, store, metrics, audit, clock, caplog)


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    attester = LocalAttester(GuestEvidence(SampleAttester(), (), None), None)
    return build(caplog, StoreHub(), attester)


async def failing(work: Awaitable[object]) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await work
    return caught.value


async def test_a_secret_is_handed_out_and_everybody_hears_it_once(world: World) -> None:
    call = world.call()
    fetched = await world.front.get_resource(call, URI)
    assert fetched.secret.reveal() == b"value-c4n4ry"
    assert world.count("get_resource", "ok") == 1
    (line,) = world.audited()
    assert (line["api"], line["peer"], line["verb"]) == ("rest", "127.0.0.1:4242", "get_resource")
    assert (line["result"], line["request_id"], line["cache"]) == ("ok", call.request_id, "miss")
    assert line["resource"] == world.audit.names.digest(URI)
    assert "c4n4ry" not in world.written()
    assert "default/key/1" not in world.written()


async def test_a_refusal_is_audited_with_its_code(world: World) -> None:
    error = await failing(world.front.get_resource(world.call(), "kbs:///default/key/none"))
    assert error.code is ErrorCode.RESOURCE_NOT_FOUND
    (line,) = world.audited()
    assert line["result"] == "RESOURCE_NOT_FOUND"
    assert "cache" not in line
    assert world.count("get_resource", "RESOURCE_NOT_FOUND") == 1
    assert "key/none" not in world.written()


async def test_names_show_when_the_operator_asked(caplog: pytest.LogCaptureFixture) -> None:
    world = build(caplog, StoreHub(), None, shown=True)
    await failing(world.front.get_resource(world.call(), "kbs:///default/key/none"))
    assert world.audited()[0]["resource"] == "kbs:///default/key/none"


def test_request_ids_are_16_hex_digits_and_differ(world: World) -> None:
    ids = {world.call().request_id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(text) == 16 and int(text, 16) >= 0 and text == text.lower() for text in ids)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (None, limits.RPC_DEADLINE),
        (0, limits.RPC_DEADLINE),
        (-1, limits.RPC_DEADLINE),
        (float("nan"), 50.0),
        (7, 7),
    ],
)
def test_a_caller_without_a_deadline_gets_the_usual_one(
    world: World, timeout: float | None, seconds: float
) -> None:
    assert world.call(timeout).deadline.remaining() == seconds


async def test_the_deadline_ends_the_work(world: World) -> None:
    world.hub.hang = True
    call = world.call(5)
    world.clock.advance(5)
    error = await failing(world.front.get_resource(call, URI))
    assert error.code is ErrorCode.DEADLINE_EXCEEDED
    assert world.audited()[0]["result"] == "DEADLINE_EXCEEDED"


async def test_a_caller_that_goes_away_is_audited_and_the_cancellation_goes_on(world: World) -> None:
    world.hub.hang = True
    task = asyncio.create_task(world.front.get_resource(world.call(), URI))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [line["result"] for line in world.audited()] == ["CANCELLED"]
    assert world.count("get_resource", "CANCELLED") == 1


@pytest.mark.parametrize(
    "fault", [ValueError("c4n4ry"), KeyError("c4n4ry"), RuntimeError(b"c4n4ry"), OSError("c4n4ry")]
)
async def test_a_defect_becomes_internal_and_shows_only_its_place(world: World, fault: Exception) -> None:
    world.hub.fault = fault
    error = await failing(world.front.get_resource(world.call(), URI))
    assert error.code is ErrorCode.INTERNAL
    assert "c4n4ry" not in str(error) + world.written()
    assert error.__suppress_context__
    (record,) = [r for r in world.log.records if r.levelno == logging.ERROR]
    assert vars(record)["error"] == type(fault).__name__
    assert "test_front.py" in vars(record)["where"]
    assert world.count("get_resource", "INTERNAL") == 1


async def test_a_missing_role_is_a_disabled_feature(caplog: pytest.LogCaptureFixture) -> None:
    world = build(caplog, None, None)
    front = world.front
    asked: list[Callable[[Call], Awaitable[object]]] = [
        lambda call: front.get_resource(call, URI),
        lambda call: front.unseal(call, b"x"),
        lambda call: front.unwrap_key(call, b"x"),
        lambda call: front.evidence(call, b"x"),
        lambda call: front.additional_evidence(call, b"x"),
        lambda call: front.token(call, "kbs"),
        front.tee_type,
        front.additional_tees,
        lambda call: front.extend(call, "d", "o", "c", None),
        lambda call: front.bind_init_data(call, bytes(32)),
    ]
    for ask in asked:
        assert (await failing(ask(world.call()))).code is ErrorCode.FEATURE_DISABLED


async def test_too_much_is_refused_before_any_work(world: World) -> None:
    front = world.front
    asked: list[tuple[Callable[[Call, int], Awaitable[object]], int]] = [
        (lambda call, n: front.get_resource(call, "u" * n), limits.URI_MAX),
        (lambda call, n: front.unseal(call, bytes(n)), limits.SEALED_MAX),
        (lambda call, n: front.unwrap_key(call, bytes(n)), limits.KEY_PROVIDER_MAX),
        (lambda call, n: front.evidence(call, bytes(n)), limits.MAX_RUNTIME_DATA),
        (lambda call, n: front.additional_evidence(call, bytes(n)), limits.MAX_RUNTIME_DATA),
        (lambda call, n: front.extend(call, "d", "o", "c" * (n - 2), None), limits.REST_MAX_BODY),
    ]
    for ask, limit in asked:
        assert (await failing(ask(world.call(), limit + 1))).code is ErrorCode.PAYLOAD_TOO_LARGE
    assert world.hub.asked == 0
    for ask, limit in asked[1:]:
        await ask(world.call(), limit)


async def test_the_uri_limit_counts_bytes_and_takes_any_text(world: World) -> None:
    for uri in ("é" * limits.URI_MAX, "\ud800" * limits.URI_MAX):
        assert (
            await failing(world.front.get_resource(world.call(), uri))
        ).code is ErrorCode.PAYLOAD_TOO_LARGE
    assert (
        await failing(world.front.get_resource(world.call(), "\ud800"))
    ).code is ErrorCode.RESOURCE_NOT_FOUND


async def test_sealed_secrets_and_image_keys_are_audited_without_their_content(world: World) -> None:
    await world.front.unseal(world.call(), b"sealed.c4n4ry")
    await world.front.unwrap_key(world.call(), b"c4n4ry")
    assert [line["verb"] for line in world.audited()] == ["unseal", "unwrap_key"]
    assert world.audited()[0]["resource"] != world.audited()[1]["resource"]
    assert "c4n4ry" not in world.written()


async def test_evidence_is_audited_and_the_name_of_the_tee_is_not(world: World) -> None:
    await world.front.evidence(world.call(), b"nonce")
    assert await world.front.tee_type(world.call()) == "sample"
    assert await world.front.additional_tees(world.call()) == ()
    assert await world.front.extend(world.call(), "d", "o", "c", 17) is MeasurementResult.NOT_SUPPORTED
    assert [line["verb"] for line in world.audited()] == ["evidence", "extend"]
    assert world.count("tee_type", "ok") == 1


async def test_the_error_of_a_role_is_passed_on_unchanged(world: World) -> None:
    original = AgentError(ErrorCode.RESOURCE_DENIED, "policy", problem="PolicyDeny")
    world.hub.fault = original
    assert await failing(world.front.get_resource(world.call(), URI)) is original
    record = next(r for r in world.log.records if vars(r).get("code") == "RESOURCE_DENIED")
    assert vars(record)["problem"] == "PolicyDeny"


async def test_what_is_kept_is_answered_without_asking_the_hub(caplog: pytest.LogCaptureFixture) -> None:
    world = build(caplog, StoreHub(), None)
    kept = Fetched(Secret(b"kept-c4n4ry"), Freshness.HIT, 7.0)
    front = Front(
        hub=world.hub,
        attester=None,
        metrics=world.metrics,
        audit=world.audit,
        clock=world.clock,
        kept=lambda uri: kept if uri == URI else None,
    )
    assert await front.get_resource(world.call(), URI) is kept
    assert world.hub.asked == 0
    assert [(line["result"], line["cache"]) for line in world.audited()] == [("ok", "hit")]
    fetched = await front.get_resource(world.call(), URI, refresh=True)
    assert fetched.secret.reveal() == b"value-c4n4ry"
    assert world.hub.asked == 1
    assert "c4n4ry" not in world.written()


@dataclass
class Register(LocalAttester):
    """An attester with a register."""

    answer: MeasurementResult | AgentError = MeasurementResult.OK

    async def extend(self, *_: object, once: bool = False) -> MeasurementResult:
        if isinstance(self.answer, AgentError):
            raise self.answer
        return self.answer

    async def bind_init_data(self, *_: object) -> None:
        return


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (MeasurementResult.OK, True),
        (AgentError(ErrorCode.EVIDENCE_TIMEOUT), True),  # nobody knows
        (MeasurementResult.NOT_ENABLED, False),
        (MeasurementResult.NOT_SUPPORTED, False),
    ],
)
async def test_an_extended_measurement_is_told(
    caplog: pytest.LogCaptureFixture, answer: MeasurementResult | AgentError, told: bool
) -> None:
    world, changes = build(caplog, None, None), list[str]()
    front = Front(
        hub=None,
        attester=Register(answer),
        metrics=world.metrics,
        audit=world.audit,
        clock=world.clock,
        changed=changes.append,
    )
    try:
        await front.extend(world.call(), "d", "o", "c", None)
    except AgentError:
        assert isinstance(answer, AgentError)
    assert bool(changes) == told
    await front.bind_init_data(world.call(), bytes(32))
    assert len(changes) == told + 1
