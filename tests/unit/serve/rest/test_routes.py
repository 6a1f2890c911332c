"""A test per row of cdh.md section 1."""

from __future__ import annotations

import json

import pytest

from agent import variant
from agent.config.model import Features, Gateway
from agent.errors import ErrorCode
from agent.roles import Freshness, MeasurementResult
from agent.serve.rest.guard import Peer
from tests.unit.serve.rest.parts import KEY, LOCAL, REMOTE, Gate, header

RESOURCE = "/cdh/resource/default/key/1"
AAEL = b'{"domain":"d","operation":"o","content":"c","more":[1]}'


def gate(features: Features) -> Gate:
    return Gate(Gateway(features=features))


# --- 1.2 order and fixed bodies -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "target", ["/info", "/nothing", "/aa/token", RESOURCE, "*", "/healthz", "/metrics", "/readyz"]
)
async def test_1_2_a_peer_outside_gets_403_forbidden_whatever_it_asks(target: str) -> None:
    answer = await Gate().ask("GET", target, peer=REMOTE)
    assert (answer.status, answer.body) == (403, b"Forbidden")


async def test_1_2_quirk_mapped_ipv4_loopback_is_served() -> None:
    peer = Peer(local=True, label="[::ffff:127.0.0.1]:40000")
    assert (await Gate().ask("GET", RESOURCE, peer=peer)).status == 200


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/aa",
        "/cdh",
        "/unknown",
        "//cdh/resource/default/key/1",
        "/CDH/resource/default/key/1",
        "/cdh%2Fresource/default/key/1",
        "/other/resource/default/key/1",
        "/info/",
        "/info/x",
        "/aa/token/",
        "/aa/nothing",
        "/aa/",
        "/aa//token",
        "/aa/../cdh/resource/default/key/1",
        "/cdh/",
        "/cdh/resource",
        "/cdh/other/x",
        "/cdh//resource/default/key/1",
        "/cdh/resource?x=/y/z",
        "/healthz/",
        "/metrics/x",
    ],
)
async def test_1_2_unknown_paths_get_404_url_not_found(target: str) -> None:
    made = Gate()
    answer = await made.ask("GET", target)
    assert (answer.status, answer.body) == (404, b"URL NOT FOUND")
    assert made.roles.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:8006/info",
        "ws://127.0.0.1:8006/info",
        "http:/127.0.0.1:8006/info",
        "http:127.0.0.1",
        "http://127.0.0.1#x",
        " http://127.0.0.1/info",
        "http://127.0.0.1/a b",
        "*",
        "127.0.0.1:8006",
        "/info#x",
        "/info?a#b",
        "/cdh/resource/a b/c/d",
        "/cdh/resource/\x00/c/d",
        "/cdh/resource/\u00e9/c/d",
        "/cdh/resource/\udcff/c/d",
        "",
    ],
)
async def test_targets_that_are_not_an_escaped_absolute_path_get_400(target: str) -> None:
    answer = await Gate().ask("GET", target)
    assert (answer.status, answer.body, answer.close) == (400, b"BAD REQUEST", True)


# --- 1.3 success rows ---------------------------------------------------------------------------------
async def test_1_3_get_token() -> None:
    made = Gate()
    answer = await made.ask("GET", "/aa/token?token_type=kbs")
    assert (answer.status, answer.content_type) == (200, "application/octet-stream")
    assert answer.body == b'{"token":"a.b.c","tee_keypair":"PEM"}'
    assert made.roles.asked == [("token", "kbs")]


async def test_1_3_get_evidence() -> None:
    made = Gate()
    answer = await made.ask("GET", "/aa/evidence?runtime_data=a+b%2B")
    assert (answer.status, answer.content_type) == (200, "application/octet-stream")
    assert answer.body == b'{"svn":"1"}'
    assert made.roles.asked == [("evidence", b"a b+")]


async def test_1_3_get_additional_evidence_which_may_be_empty() -> None:
    made = Gate()
    answer = await made.ask("GET", "/aa/additional-evidence?runtime_data=cmVwb3J0&encoding=base64")
    assert (answer.status, answer.content_type, answer.body) == (200, "application/octet-stream", b"")
    assert made.roles.asked == [("additional_evidence", b"report")]


async def test_1_3_post_aael() -> None:
    made = Gate()
    answer = await made.ask("POST", "/aa/aael", body=AAEL)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert made.roles.asked == [("extend", "d", "o", "c", None)]


@pytest.mark.parametrize(("once", "asked"), [(b"true", ("once",)), (b"false", ())])
async def test_post_aael_once(once: bytes, asked: tuple[str, ...]) -> None:
    made = Gate()
    body = b'{"domain":"d","operation":"o","content":"c","once":' + once + b"}"
    assert (await made.ask("POST", "/aa/aael", body=body)).body == b'{"success":"true"}'
    assert made.roles.asked == [("extend", "d", "o", "c", None, *asked)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_1_3_resource(method: str) -> None:
    made = Gate()
    answer = await made.ask(method, RESOURCE)
    assert (answer.status, answer.content_type, answer.body) == (200, "application/octet-stream", KEY)
    assert made.roles.asked == [("resource", "kbs:///default/key/1")]


@pytest.mark.parametrize("target", [RESOURCE, "/aa/token?token_type=kbs", "/aa/evidence?runtime_data="])
async def test_secrets_are_neither_cached_nor_sniffed_and_carry_the_request_id(target: str) -> None:
    answer = await Gate().ask("GET", target)
    assert header(answer, "Cache-Control") == "no-store"
    assert header(answer, "X-Content-Type-Options") == "nosniff"
    assert len(header(answer, "X-Request-Id") or "") == 16
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]


# --- 1.4 /info ----------------------------------------------------------------------------------------
async def test_1_4_info_in_resource_mode_asks_nobody() -> None:
    made = gate(Features.RESOURCE)
    answer = await made.ask("GET", "/info")
    expected = b'{"version":"Guest Components Version: coco-agent 0.1.0","feature":"resource"}'
    assert (answer.status, answer.content_type, answer.body) == (200, "application/json", expected)
    assert made.roles.asked == []


async def test_1_4_info_with_the_attester_has_all_keys_in_order() -> None:
    made = gate(Features.ALL)
    made.roles.devices = ("nvidia",)
    body = (await made.ask("GET", "/info")).body
    assert list(json.loads(body)) == ["version", "tee", "additional_tees", "feature"]
    assert json.loads(body)["tee"] == "snp"
    assert json.loads(body)["additional_tees"] == ["nvidia"]


async def test_1_4_info_leaves_out_additional_tees_when_there_are_none() -> None:
    body = (await gate(Features.ATTESTATION).ask("GET", "/info")).body
    assert list(json.loads(body)) == ["version", "tee", "feature"]


async def test_1_4_info_of_a_development_image_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant, "DEVELOPMENT", True)
    body = (await gate(Features.ATTESTATION).ask("GET", "/info")).body
    assert json.loads(body)["image"] == "development"


async def test_1_4_bug_info_answers_without_tee_when_the_attester_fails() -> None:
    made = gate(Features.ALL)
    made.roles.no_tee = True
    answer = await made.ask("GET", "/info")
    assert (answer.status, list(json.loads(answer.body))) == (200, ["version", "feature"])


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get"])
async def test_1_4_info_takes_get_only(method: str) -> None:
    answer = await Gate().ask(method, "/info")
    assert (answer.status, answer.body, header(answer, "Allow")) == (405, b"Method Not Allowed", "GET")


# --- 1.5 /aa ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", ["/aa/token", "/aa/nothing", "/aa/", "/aa/aael", "/aa/token/"])
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
async def test_1_5_without_the_feature_every_path_and_method_is_404(method: str, target: str) -> None:
    answer = await gate(Features.RESOURCE).ask(method, target)
    assert (answer.status, answer.body) == (404, b"Attestation Feature Not Enabled")


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("HEAD", "/aa/token", "GET"),
        ("POST", "/aa/token", "GET"),
        ("PUT", "/aa/evidence", "GET"),
        ("OPTIONS", "/aa/additional-evidence", "GET"),
        ("GET", "/aa/aael", "POST"),
    ],
)
async def test_1_5_quirk_wrong_methods_are_405_with_allow(method: str, target: str, allow: str) -> None:
    answer = await Gate().ask(method, target)
    assert (answer.status, answer.body, header(answer, "Allow")) == (405, b"Method Not Allowed", allow)


@pytest.mark.parametrize(
    "target",
    [
        "/aa/token",
        "/aa/token?tokentype=kbs",
        "/aa/evidence",
        "/aa/evidence?encoding=base64",
        "/aa/additional-evidence",
        "/aa/evidence?runtime_data=data&encoding=hex",
        "/aa/evidence?runtime_data=data&encoding=",
        "/aa/evidence?runtime_data=!!!&encoding=base64",
        "/aa/evidence?runtime_data=cmVwb3J0ZQ%3D%3D&encoding=base64",
        "/aa/evidence?runtime_data=%FF",
    ],
)
async def test_1_5_missing_and_undecodable_parameters_are_400(target: str) -> None:
    made = Gate()
    answer = await made.ask("GET", target)
    assert (answer.status, answer.body) == (400, b"BAD REQUEST")
    assert made.roles.asked == []


async def test_1_5_an_empty_token_type_is_passed_on() -> None:
    made = Gate()
    await made.ask("GET", "/aa/token?token_type=")
    assert made.roles.asked == [("token", "")]


async def test_1_5_empty_runtime_data_is_allowed() -> None:
    made = Gate()
    assert (await made.ask("GET", "/aa/evidence?runtime_data=")).status == 200
    assert made.roles.asked == [("evidence", b"")]


async def test_1_5_the_last_duplicate_parameter_wins() -> None:
    made = Gate()
    await made.ask("GET", "/aa/token?token_type=a&token_type=kbs")
    assert made.roles.asked == [("token", "kbs")]


@pytest.mark.parametrize(
    ("result", "body"),
    [
        (MeasurementResult.OK, b'{"success":"true"}'),
        (
            MeasurementResult.NOT_SUPPORTED,
            b'{"success":"false","message": "The platform does not support runtime measurement"}',
        ),
        (
            MeasurementResult.NOT_ENABLED,
            b'{"success":"false","message": "Attestation Agent does not enable eventlog recording"}',
        ),
        (7, b'{"success":"false","message": "Unknown runtime measurement result"}'),
    ],
)
async def test_1_5_aael_results_byte_for_byte(result: MeasurementResult, body: bytes) -> None:
    made = Gate()
    made.roles.measured = result
    answer = await made.ask("POST", "/aa/aael", body=AAEL)
    assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'{"domain":"CANARY"}',
        b'{"domain":"d","operation":"o","content":1}',
        b'{"domain":"d","operation":"o","content":"c","once":"yes"}',
        b'{"domain":"d","operation":"o","content":"\xff"}',
        b'{"x":' + b"[" * 60_000,
    ],
)
@pytest.mark.parametrize(("compat", "status"), [(False, 400), (True, 500)])
async def test_1_5_quirk_bad_aael_json(body: bytes, compat: bool, status: int) -> None:
    made = Gate(Gateway(features=Features.ALL, compat_status=compat))
    answer = await made.ask("POST", "/aa/aael", body=body)
    assert answer.status == status
    assert answer.body.startswith(b"Illegal AAEL eventry format: ")
    assert b"CANARY" not in answer.body
    assert made.roles.asked == []


# --- 1.6 /cdh -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", [RESOURCE, "/cdh/other/x", "/cdh/", "/cdh/resource"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_1_6_without_the_feature_every_path_and_method_is_404(method: str, target: str) -> None:
    answer = await gate(Features.ATTESTATION).ask(method, target)
    assert (answer.status, answer.body) == (404, b"Resource Feature Not Enabled")


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        (RESOURCE, "kbs:///default/key/1"),
        ("/cdh/resource/", "kbs:///"),
        ("/cdh/resource/default/key/1?a=b&c", "kbs:///default/key/1"),
        ("/cdh/resource/a%2Fb/%00/%2e%2e", "kbs:///a%2Fb/%00/%2e%2e"),
        ("/cdh/resource/a/../../etc/passwd", "kbs:///a/../../etc/passwd"),
        ("/cdh/resource//a//b", "kbs:////a//b"),
        ("/cdh/resource/a/b/c/d/e/", "kbs:///a/b/c/d/e/"),
    ],
)
async def test_1_6_the_path_is_forwarded_as_it_is_and_the_query_dropped(target: str, uri: str) -> None:
    made = Gate()
    await made.ask("GET", target)
    assert made.roles.asked == [("resource", uri)]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
async def test_1_6_quirk_a_resource_is_only_read(method: str) -> None:
    made = Gate()
    answer = await made.ask(method, RESOURCE)
    assert (answer.status, header(answer, "Allow")) == (405, "GET, HEAD")
    assert made.roles.asked == []


# --- ours ---------------------------------------------------------------------------------------------
async def test_healthz_and_readyz_say_why_in_codes() -> None:
    made = gate(Features.RESOURCE)
    live = await made.ask("GET", "/healthz")
    assert (live.status, live.body) == (200, b'{"status":"ok","reasons":[]}')
    made.health.started()
    assert (await made.ask("GET", "/readyz")).status == 200
    made.health.add("kbs", lambda: ErrorCode.KBS_UNREACHABLE.name)
    ready = await made.ask("GET", "/readyz")
    assert ready.status == 503
    assert ready.body == b'{"status":"failing","reasons":["KBS_UNREACHABLE"]}'


async def test_metrics_are_there_when_they_are_on() -> None:
    answer = await Gate().ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    assert b"coco_build_info" in answer.body
    assert (await Gate(metrics=False).ask("GET", "/metrics")).status == 404


@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/metrics"])
async def test_health_and_metrics_stand_behind_the_same_guard(target: str) -> None:
    assert (await Gate().ask("GET", target, host="evil.com")).status == 403
    assert (await Gate().ask("POST", target)).status == 405


async def test_refusals_are_counted() -> None:
    made = Gate()
    await made.ask("GET", "/nothing", peer=LOCAL)
    rendered = made.metrics.render().decode()
    assert 'coco_requests_total{api="rest",result="UNKNOWN_ROUTE",verb="refused"} 1.0' in rendered


@pytest.mark.parametrize(
    ("freshness", "age", "shown"),
    [(Freshness.HIT, 12.9, "12"), (Freshness.MISS, 0.0, "0"), (Freshness.STALE, 301.0, "301")],
)
async def test_a_resource_says_how_fresh_it_is(freshness: Freshness, age: float, shown: str) -> None:
    gate = Gate()
    gate.roles.freshness, gate.roles.age = freshness, age
    for method in ("GET", "HEAD"):
        answer = await gate.ask(method, "/cdh/resource/default/key/1")
        assert (header(answer, "X-Cache"), header(answer, "Age")) == (freshness.value, shown)
        assert header(answer, "Cache-Control") == "no-store"
    gate.roles.error = ErrorCode.RESOURCE_DENIED
    assert header(await gate.ask("GET", "/cdh/resource/default/key/1"), "X-Cache") is None


@pytest.mark.parametrize(
    ("query", "headers", "refreshed"),
    [
        ("", (), False),
        ("?refresh=1", (), True),
        ("?a=b&refresh=1", (), True),
        ("?refresh=1&refresh=0", (), False),
        ("?refresh=true", (), False),
        ("?refresh", (), False),
        ("?%ff=%ff&refresh=1", (), False),
        ("", (("Cache-Control", "no-cache"),), True),
        ("", (("Cache-Control", "max-age=5 , No-Cache"),), True),
        ("", (("Cache-Control", "max-age=5"), ("Cache-Control", "no-cache")), True),
        ("", (("Cache-Control", "no-cache-please"),), False),
        ("", (("Cache-Control", "no-store"),), False),
    ],
)
async def test_a_caller_can_have_the_broker_asked(
    query: str, headers: tuple[tuple[str, str], ...], refreshed: bool
) -> None:
    gate = Gate()
    answer = await gate.ask("GET", f"/cdh/resource/default/key/1{query}", headers)
    assert answer.status == 200
    assert gate.roles.refreshed == refreshed
    assert gate.roles.asked == [("resource", "kbs:///default/key/1")]  # the query stays behind
