"""``POST /cdh/unseal``: several sealed secrets, one answer for each."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.config.model import Features, Gateway
from agent.errors import AgentError, ErrorCode
from agent.secret import Secret
from tests.unit.serve.rest.parts import REMOTE, Gate, header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.http.server.exchange import Answer

PATH = "/cdh/unseal"
OPENS = {b"sealed.a": b"one\xff", b"sealed.b": b""}


def gate(**more: Any) -> Gate:
    made = Gate(Gateway(features=Features.ALL, **more))
    made.roles.opens = dict(OPENS)
    return made


async def ask(made: Gate, items: object) -> Answer:
    return await made.ask("POST", PATH, body=json.dumps(items).encode())


async def test_each_item_has_its_answer_in_order() -> None:
    made = gate()
    answer = await ask(made, ["sealed.b", "sealed.bad", "sealed.a"])
    assert (answer.status, answer.content_type) == (200, "application/json")
    empty, bad, one = json.loads(answer.body)
    assert empty == {"value": ""}
    assert base64.b64decode(one["value"]) == b"one\xff"
    assert list(bad) == ["code", "message", "hint"]
    assert bad["code"] == "SEALED_SIGNATURE_INVALID"
    assert b"operator detail" not in answer.body
    assert b"sealed.bad" not in answer.body
    assert header(answer, "Cache-Control") == "no-store"
    assert made.limit == limits.UNSEAL_MAX_BODY


async def test_items_run_at_the_same_time() -> None:
    made = gate()
    made.roles.hold = asyncio.Event()
    asking = asyncio.create_task(ask(made, ["sealed.a"] * 5))
    await asyncio.wait_for(made.roles.entered.wait(), 10)
    await asyncio.sleep(0)
    assert len(made.roles.asked) == 5
    made.roles.hold.set()
    assert [base64.b64decode(item["value"]) for item in json.loads((await asking).body)] == [b"one\xff"] * 5


async def test_all_may_fail_and_the_answer_is_still_one_for_each() -> None:
    made = gate(compat_status=True)
    made.roles.error = ErrorCode.KBS_UNREACHABLE
    answer = await ask(made, ["sealed.a", "sealed.b"])
    assert answer.status == 200
    assert [item["code"] for item in json.loads(answer.body)] == ["KBS_UNREACHABLE"] * 2


async def test_nothing_in_nothing_out() -> None:
    assert (await ask(gate(), [])).body == b"[]"


async def test_each_item_is_audited_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    made = gate()
    answer = await ask(made, ["sealed.a", "sealed.bad"])
    lines = [vars(record) for record in caplog.records if record.name == "coco.audit"]
    assert sorted(line["result"] for line in lines) == ["SEALED_SIGNATURE_INVALID", "ok"]
    assert {line["request_id"] for line in lines} == {header(answer, "X-Request-Id")}
    assert len({line["resource"] for line in lines}) == 2
    assert not any("sealed." in str(line) for line in lines)
    labels = {"api": "rest", "verb": "unseal", "result": "ok"}
    assert made.metrics.registry.get_sample_value("coco_requests_total", labels) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b'"sealed.a"',
        b"[1]",
        b"[null]",
        b'["sealed.a"',
        b'[["sealed.a"]]',
        b'[{"secret":"sealed.a"}]',
        b"[\xff]",
        b'["\xff"]',
        b"[" * 5000,
    ],
)
async def test_another_body_is_400_and_asks_nobody(body: bytes) -> None:
    made = gate()
    answer = await made.ask("POST", PATH, body=body)
    assert (answer.status, answer.body) == (400, b"BAD REQUEST")
    assert made.roles.asked == []


@pytest.mark.parametrize("text", ["\u00e9", "\U0001f600", "\ud800", "\0"])
async def test_text_that_is_no_ascii_is_one_bad_item(text: str) -> None:
    body = json.dumps(["sealed.a", text]).encode()
    answer = await gate().ask("POST", PATH, body=body)
    if answer.status == 400:
        assert text == "\ud800"  # no parser takes half a character
        return
    assert "value" in json.loads(answer.body)[0]
    assert "code" in json.loads(answer.body)[1]


async def test_too_many_are_refused_before_any_is_opened() -> None:
    made = gate()
    assert (await ask(made, ["sealed.a"] * limits.UNSEAL_MAX_ITEMS)).status == 200
    made.roles.asked.clear()
    answer = await ask(made, ["sealed.a"] * (limits.UNSEAL_MAX_ITEMS + 1))
    assert answer.status == 413
    assert made.roles.asked == []


async def test_an_item_that_is_too_long_is_one_bad_item() -> None:
    answer = await ask(gate(), ["x" * (limits.SEALED_MAX + 1), "sealed.a"])
    assert [item.get("code") for item in json.loads(answer.body)] == ["PAYLOAD_TOO_LARGE", None]


async def test_one_answer_holds_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNSEAL_MAX_ANSWER", 10)
    made = gate()
    answer = await ask(made, ["sealed.a"] * 4)
    codes = [item.get("code") for item in json.loads(answer.body)]
    assert codes == [None, None, "KBS_RESPONSE_TOO_LARGE", "KBS_RESPONSE_TOO_LARGE"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_only_post(method: str) -> None:
    answer = await gate().ask(method, PATH, body=b"[]")
    assert (answer.status, header(answer, "Allow")) == (405, "POST")


@pytest.mark.parametrize("target", [f"{PATH}/", f"{PATH}/x", "/cdh/Unseal", "/unseal", "/aa/unseal"])
async def test_only_there(target: str) -> None:
    assert (await gate().ask("POST", target, body=b"[]")).status == 404


@pytest.mark.parametrize(
    ("headers", "more", "status"),
    [
        ([("Origin", "https://evil.example")], {}, 403),
        ([("Sec-Fetch-Site", "cross-site")], {}, 403),
        ([("X-Forwarded-For", "10.0.0.1")], {}, 403),
        ([], {"peer": REMOTE}, 403),
        ([], {"host": "evil.example"}, 403),
    ],
)
async def test_guarded_like_resources(
    headers: Sequence[tuple[str, str]], more: dict[str, Any], status: int
) -> None:
    made = gate()
    assert (await made.ask("POST", PATH, headers, body=b'["sealed.a"]', **more)).status == status
    assert made.roles.asked == []


async def test_off_with_the_resource_feature() -> None:
    made = Gate(Gateway(features=Features.ATTESTATION))
    answer = await made.ask("POST", PATH, body=b"[]")
    assert (answer.status, answer.body) == (404, b"Resource Feature Not Enabled")


async def test_leaving_cancels_all_items() -> None:
    made = gate()
    made.roles.hold = asyncio.Event()
    asking = asyncio.create_task(ask(made, ["sealed.a", "sealed.b"]))
    await asyncio.wait_for(made.roles.entered.wait(), 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert made.roles.cancelled.is_set()


async def test_a_defect_in_one_does_not_spoil_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gate()
    honest = made.roles.unseal

    async def broken(sealed: bytes, deadline: Any) -> Secret:
        if sealed == b"sealed.defect":
            raise RuntimeError("c4n4ry")
        return await honest(sealed, deadline)

    monkeypatch.setattr(made.roles, "unseal", broken)
    answer = await ask(made, ["sealed.defect", "sealed.a"])
    assert [item.get("code") for item in json.loads(answer.body)] == ["INTERNAL", None]
    assert b"c4n4ry" not in answer.body


async def test_the_callers_copies_are_wiped() -> None:
    made = gate()
    found = await made.front.unseal_all(made.front.call("rest", "x"), [b"sealed.a", b"sealed.x"])
    assert isinstance(found[0], Secret)
    assert isinstance(found[1], AgentError)
    from agent.serve.rest import answers  # noqa: PLC0415

    answers.unsealed(found)
    assert len(found[0]) == 0


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=200) | st.lists(st.text(max_size=20), max_size=5).map(lambda x: json.dumps(x).encode())
)
async def test_any_body_has_an_answer(body: bytes) -> None:
    answer = await gate().ask("POST", PATH, body=body)
    assert answer.status in {200, 400}
