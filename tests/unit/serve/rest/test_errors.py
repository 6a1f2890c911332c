"""What a caller sees when something fails."""

from __future__ import annotations

import asyncio
import json

import pytest

from agent.config import limits
from agent.config.model import Features, Gateway
from agent.errors import ErrorCode
from tests.unit.serve.rest.parts import Gate, header

RESOURCE = "/cdh/resource/default/key/1"
ASKS_JSON = [("Accept", "application/json")]


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
async def test_every_code_has_its_status_and_no_detail(code: ErrorCode) -> None:
    made = Gate()
    made.roles.error = code
    plain = await made.ask("GET", RESOURCE)
    problem = await made.ask("GET", RESOURCE, ASKS_JSON)
    assert plain.status == problem.status == code.meaning.rest
    assert plain.content_type == "text/plain; charset=utf-8"
    assert problem.content_type == "application/json"
    assert b"operator detail" not in plain.body + problem.body
    read = json.loads(problem.body)
    assert list(read) == ["code", "message", "hint", "request_id"]
    assert (read["code"], read["message"]) == (code.name, code.meaning.message)
    assert read["request_id"] == header(problem, "X-Request-Id")
    assert bool(header(plain, "Retry-After")) == (
        plain.status == 429 or (plain.status == 503 and code.meaning.retry)
    )


async def test_text_names_the_code_and_the_request() -> None:
    made = Gate()
    made.roles.error = ErrorCode.RESOURCE_DENIED
    answer = await made.ask("GET", RESOURCE)
    request_id = header(answer, "X-Request-Id")
    expected = f"{ErrorCode.RESOURCE_DENIED.meaning.message} (RESOURCE_DENIED, request {request_id})\n"
    assert (answer.status, answer.body.decode()) == (403, expected)


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
async def test_compat_status_is_500_for_every_role_failure(code: ErrorCode) -> None:
    made = Gate(Gateway(compat_status=True))
    made.roles.error = code
    answer = await made.ask("GET", RESOURCE)
    assert answer.status == 500
    assert header(answer, "Retry-After") is None


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/x", 404), ("POST", "/info", 405), ("GET", "/aa/token", 400), ("GET", "/cdh/resource", 404)],
)
async def test_compat_status_changes_nothing_that_upstream_tells_apart(
    method: str, target: str, status: int
) -> None:
    made = Gate(Gateway(compat_status=True, features=Features.ALL))
    assert (await made.ask(method, target)).status == status


@pytest.mark.parametrize("status", [400, 403, 404, 405])
async def test_json_callers_get_the_fixed_bodies_statuses_as_json(status: int) -> None:
    method, target, host = {
        400: ("GET", "/aa/token", "localhost"),
        403: ("GET", "/info", "evil.com"),
        404: ("GET", "/x", "localhost"),
        405: ("POST", "/info", "localhost"),
    }[status]
    answer = await Gate().ask(method, target, ASKS_JSON, host=host)
    assert answer.status == status
    assert json.loads(answer.body)["code"]


async def test_input_never_comes_back() -> None:
    for target in (
        "/CANARY",
        "/cdh/resource/CANARY",
        "/aa/token?CANARY",
        "/aa/evidence?runtime_data=!CANARY&encoding=base64",
    ):
        made = Gate()
        made.roles.error = ErrorCode.INVALID_URI
        for accept in ("text/plain", "application/json"):
            answer = await made.ask("GET", target, [("Accept", accept), ("X-CANARY", "CANARY")])
            assert b"CANARY" not in answer.body
            assert "CANARY" not in str(answer.headers)


async def test_more_requests_than_the_house_holds_are_429_and_health_still_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REST_MAX_WAITING", 1)
    made = Gate()
    made.roles.hold = asyncio.Event()
    first = asyncio.create_task(made.ask("GET", RESOURCE))
    await made.roles.entered.wait()
    second = await made.ask("GET", RESOURCE)
    assert (second.status, header(second, "Retry-After")) == (429, "1")
    assert (await made.ask("GET", "/healthz")).status == 200
    made.roles.hold.set()
    assert (await first).status == 200
    assert (await made.ask("GET", RESOURCE)).status == 200


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [("wait=3", 3.0), ("respond-async, wait=2", 2.0), ("wait=900", 20.0), ("wait=0", 20.0), ("wait=x", 20.0)],
)
async def test_prefer_wait_lowers_the_deadline(prefer: str, seconds: float) -> None:
    made = Gate(Gateway(deadline=20.0))
    await made.ask("GET", RESOURCE, [("Prefer", prefer)])
    assert made.roles.seconds == seconds


async def test_a_request_that_outlives_its_deadline_is_504() -> None:
    made = Gate(Gateway(deadline=0.01))
    made.roles.hold = asyncio.Event()
    assert (await made.ask("GET", RESOURCE)).status == 504
    assert made.roles.cancelled.is_set()


async def test_a_caller_that_goes_away_cancels_its_work() -> None:
    made = Gate()
    made.roles.hold = asyncio.Event()
    task = asyncio.create_task(made.ask("GET", RESOURCE))
    await made.roles.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.roles.cancelled.is_set()


async def test_runtime_data_and_target_are_bounded() -> None:
    made = Gate()
    long = "x" * (limits.MAX_RUNTIME_DATA + 1)
    assert (await made.ask("GET", f"/aa/evidence?runtime_data={long}")).status == 413
    edge = "/" + "x" * (limits.REST_MAX_TARGET - 1)
    assert (await made.ask("GET", edge)).status == 404
    assert (await made.ask("GET", edge + "x")).status == 413
    assert made.roles.asked == []
