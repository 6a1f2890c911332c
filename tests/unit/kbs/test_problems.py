from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.problems import classify, retry_after
from tests.unit.kbs import PROPERTY

BASE = "https://github.com/confidential-containers/kbs/errors/"


def answer(name: str, detail: str = "") -> bytes:
    return json.dumps({"type": BASE + name, "detail": detail}).encode()


# kbs_protocol.md 3.4, one row each, and 1.8 for the handshake
@pytest.mark.parametrize(
    ("endpoint", "status", "name", "detail", "code"),
    [
        ("resource", 401, "TokenNotFound", "Attestation Token not found", ErrorCode.TOKEN_REJECTED),
        ("resource", 401, "TokenVerifierError", "Token Verifier error", ErrorCode.TOKEN_REJECTED),
        ("resource", 401, "PolicyDeny", "Access denied by policy", ErrorCode.RESOURCE_DENIED),
        ("resource", 401, "PolicyEngineError", "", ErrorCode.KBS_POLICY_BROKEN),
        ("resource", 401, "PluginInternalError", "Plugin internal error", ErrorCode.RESOURCE_NOT_FOUND),
        ("resource", 401, "JweError", "JWE failed", ErrorCode.TEE_KEY_REFUSED),
        ("auth", 401, "AttestationError", "Attestation error: ...", ErrorCode.ATTESTATION_REJECTED),
        ("attest", 401, "AttestationError", "Attestation error: ...", ErrorCode.ATTESTATION_REJECTED),
        ("resource", 401, "AdminAuthInitialization", "failed to ...", ErrorCode.KBS_ADMIN_REQUIRED),
        ("resource", 401, "AdminAuthAccess", "admin access denied", ErrorCode.KBS_ADMIN_REQUIRED),
        ("resource", 401, "ParsePolicyError", "", ErrorCode.KBS_POLICY_BROKEN),
        ("resource", 401, "RvpsError", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 401, "SerdeError", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 401, "PrometheusError", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 401, "PluginManagerInitialization", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 401, "StorageBackendInitialization", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 401, "HTTPFailed", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 401, "HTTPSFailed", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 404, "PluginNotFound", "Plugin x not found", ErrorCode.PLUGIN_NOT_FOUND),
        ("resource", 404, "InvalidRequestPath", "", ErrorCode.INVALID_URI),
        # not in the table: out of place, unknown, and the same names under other statuses
        ("resource", 401, "AttestationError", "", ErrorCode.KBS_BAD_RESPONSE),
        ("auth", 401, "PolicyDeny", "", ErrorCode.KBS_BAD_RESPONSE),
        ("attest", 404, "InvalidRequestPath", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 401, "SomethingNew", "", ErrorCode.KBS_BAD_RESPONSE),
        ("resource", 503, "SomethingNew", "", ErrorCode.KBS_BUSY),
        ("resource", 403, "PolicyDeny", "", ErrorCode.RESOURCE_DENIED),
        ("resource", 404, "PluginInternalError", "", ErrorCode.RESOURCE_NOT_FOUND),
        ("resource", 500, "PolicyDeny", "", ErrorCode.RESOURCE_DENIED),
    ],
)
def test_the_type_decides(endpoint: str, status: int, name: str, detail: str, code: ErrorCode) -> None:
    error = classify(endpoint, status, answer(name, detail))
    assert error.code is code
    assert error.problem == name
    assert f"/{endpoint} answered {status} {name}" in error.detail
    assert detail in error.detail


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("AttestationError", "RCAR handshake Attest failed: verify TEE evidence failed: Host Data Mismatch"),
        ("AttestationError", "MRCONFIGID is different from that in TDX Quote"),
        ("AttestationError", "Measurement mismatch: launch_digest"),
        ("AttestationError", "no reference value: the launch digest does not match"),
        ("AttestationError", "init-data differs"),
        ("AttestationError", "rejected by attestation policy default"),
        ("AttestationError", "policy_ids_unmatched: policy ids unmatched"),
        ("PolicyDeny", "Access denied by policy"),
        ("PolicyDeny", ""),
    ],
)
def test_a_broker_that_says_that_the_measurement_does_not_fit(name: str, detail: str) -> None:
    error = classify("attest", 401, answer(name, detail))
    assert error.code is ErrorCode.MEASUREMENT_REJECTED
    assert error.problem == name


@pytest.mark.parametrize(
    "detail",
    [
        "Attestation error: RCAR handshake Attest failed",
        "session expired.",
        "Report Data Mismatch",
        "Chip ID mismatch",
        "the nonce in the handshake session is different from the client side",
        "Failed to fetch VCEK from any configured source",
        "Get Reference Value from RVPS timeout",
        "policy engine: no such file",
        "",
    ],
)
def test_other_refusals_are_not_about_the_measurement(detail: str) -> None:
    for endpoint in ("auth", "attest"):
        error = classify(endpoint, 401, answer("AttestationError", detail))
        assert error.code is ErrorCode.ATTESTATION_REJECTED


def test_version_mismatch() -> None:
    detail = (
        "Attestation error: RCAR handshake Auth failed: "
        "KBS Client Protocol Version Mismatch: expect =0.5.0 while the request is 0.4.0"
    )
    error = classify("auth", 401, answer("AttestationError", detail))
    assert error.code is ErrorCode.PROTOCOL_MISMATCH
    assert "expect =0.5.0" in error.detail


@pytest.mark.parametrize("endpoint", ["auth", "attest"])
def test_a_broker_without_attestation_service_says_so(endpoint: str) -> None:
    error = classify(endpoint, 404, answer("PluginNotFound", "Plugin auth not found"))
    assert error.code is ErrorCode.KBS_BAD_RESPONSE
    assert "no attestation service" in error.detail


@pytest.mark.parametrize(
    "kind", ["PolicyDeny", "/PolicyDeny", "urn:x/PolicyDeny", "http://other/a/b/PolicyDeny"]
)
def test_only_the_last_part_of_the_type_counts(kind: str) -> None:
    error = classify("resource", 401, json.dumps({"type": kind}).encode())
    assert error.code is ErrorCode.RESOURCE_DENIED


@pytest.mark.parametrize("rest", ['"detail":null', '"title":"x"', '"status":401,"detail":"d"'])
def test_members_may_come_and_go(rest: str) -> None:
    body = f'{{"type":"{BASE}PolicyDeny",{rest}}}'.encode()
    assert classify("resource", 401, body).code is ErrorCode.RESOURCE_DENIED


NOT_PROBLEMS = [
    b"",
    b"<html><h1>Bad Gateway</h1></html>",
    b"null",
    b"[]",
    b'{"error":"x"}',
    b'{"type":5}',
    b'{"type":"about:blank"}',
    b'{"type":"https://x/errors/"}',
    b'{"type":"https://x/Policy Deny"}',
    b'{"type":"https://x/PolicyDeny\\u0000"}',
    b'{"type":"https://x/' + b"a" * 65 + b'"}',
    b'{"a":' * 10000,
    answer("PolicyDeny", "x" * limits.KBS_MAX_PROBLEM),
]


@pytest.mark.parametrize("body", NOT_PROBLEMS)
@pytest.mark.parametrize(
    ("status", "code", "word"),
    [
        (404, ErrorCode.KBS_BAD_RESPONSE, "another service"),
        (405, ErrorCode.KBS_BAD_RESPONSE, "another service"),
        (413, ErrorCode.KBS_BAD_RESPONSE, "payload_request_size"),
        (408, ErrorCode.KBS_BUSY, "408"),
        (421, ErrorCode.KBS_BUSY, "421"),
        (425, ErrorCode.KBS_BUSY, "425"),
        (429, ErrorCode.KBS_BUSY, "429"),
        (500, ErrorCode.KBS_BUSY, "500"),
        (502, ErrorCode.KBS_BUSY, "502"),
        (503, ErrorCode.KBS_BUSY, "503"),
        (599, ErrorCode.KBS_BUSY, "599"),
        (301, ErrorCode.KBS_REDIRECT_REFUSED, "301"),
        (304, ErrorCode.KBS_REDIRECT_REFUSED, "304"),
        (308, ErrorCode.KBS_REDIRECT_REFUSED, "308"),
        (431, ErrorCode.KBS_BAD_RESPONSE, "head"),
        (400, ErrorCode.KBS_BAD_RESPONSE, "400"),
        (401, ErrorCode.KBS_BAD_RESPONSE, "401"),
        (403, ErrorCode.KBS_BAD_RESPONSE, "403"),
        (204, ErrorCode.KBS_BAD_RESPONSE, "204"),
        (999, ErrorCode.KBS_BAD_RESPONSE, "999"),
    ],
)
def test_without_a_problem_the_status_decides(body: bytes, status: int, code: ErrorCode, word: str) -> None:
    error = classify("attest", status, body)
    assert error.code is code
    assert error.problem is None
    assert word in error.detail


def test_a_redirect_is_refused_whatever_it_says() -> None:
    assert classify("resource", 302, answer("TokenNotFound")).code is ErrorCode.KBS_REDIRECT_REFUSED


def test_detail_is_short_and_printable() -> None:
    error = classify("resource", 401, answer("PolicyDeny", "a\r\nb\x1b[31m\u202e\x00c " + "long " * 100))
    assert error.detail.isprintable()
    said = error.detail.partition(": ")[2]
    assert said.startswith("ab[31mc long")
    assert len(said) == 200


def test_a_token_sent_back_does_not_reach_the_log() -> None:
    token = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3NjA0MjY0MzQsImlhdCI6MX0." + "c2lnbmF0dXJl" * 7
    cookie = "6b0f4d6c9a5d4b6e8d7a2f1c3e5b7a90"
    error = classify("resource", 401, answer("TokenVerifierError", f"bad {token} and {cookie}"))
    assert not any(part in error.detail for part in (*token.split("."), cookie))


@PROPERTY
@given(
    st.sampled_from(["auth", "attest", "resource"]),
    st.integers(0, 999),
    st.one_of(
        st.binary(max_size=60),
        st.tuples(st.text(max_size=20), st.text(max_size=300)).map(
            lambda x: json.dumps({"type": "x/" + x[0], "detail": x[1]}).encode()
        ),
    ),
)
def test_property_always_an_error(endpoint: str, status: int, body: bytes) -> None:
    error = classify(endpoint, status, body)
    assert isinstance(error, AgentError)
    assert error.detail.isprintable()
    assert len(error.detail) < 500


# --- Retry-After ----------------------------------------------------------------------------------
WALL = 1_795_348_800.0  # Sun, 22 Nov 2026 12:00:00 GMT
NOW = "Sun, 22 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("0", "", 0.0),
        ("7", "", 7.0),
        (" 7 ", "", 7.0),
        ("3600", "", limits.RETRY_AFTER_MAX),
        ("9" * 5000, "", limits.RETRY_AFTER_MAX),
        ("Sun, 22 Nov 2026 12:00:20 GMT", NOW, 20.0),
        ("Sun, 22 Nov 2026 12:00:20 GMT", "", 20.0),
        ("Sun, 22 Nov 2026 12:00:20 GMT", "Sun, 22 Nov 2026 12:00:15 GMT", 5.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", NOW, 0.0),
        ("Sun, 22 Nov 2099 11:00:00 GMT", NOW, limits.RETRY_AFTER_MAX),
        ("", NOW, None),
        ("-1", NOW, None),
        ("1.5", NOW, None),
        ("soon", NOW, None),
        ("\u0661", NOW, None),
    ],
)
def test_retry_after_is_read_and_bounded(value: str, date: str, seconds: float | None) -> None:
    assert retry_after(value, date, WALL) == seconds


@given(st.text(max_size=60), st.text(max_size=40), st.floats(0, 1e12))
@settings(max_examples=200)
def test_any_retry_after_is_bounded(value: str, date: str, wall: float) -> None:
    found = retry_after(value, date, wall)
    assert found is None or 0.0 <= found <= limits.RETRY_AFTER_MAX


def test_only_what_may_pass_carries_a_pause() -> None:
    assert classify("resource", 503, b"", retry_after=9.0).retry_after == 9.0
    assert classify("auth", 429, b"", retry_after=9.0).retry_after == 9.0
    assert classify("resource", 404, b"", retry_after=9.0).retry_after is None
