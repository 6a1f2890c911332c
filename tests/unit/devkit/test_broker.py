from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.devkit.clock import FakeClock
from agent.devkit.kbs import Fault, Kind, Settings, sessions
from agent.devkit.kbs.answers import Call
from agent.devkit.kbs.broker import Broker
from agent.devkit.kbs.counters import Counters
from agent.errors import AgentError, ErrorCode

from .guest import REQUEST, Guest, attest, claims_of, cookie_of, get, post, problem

AUTH = "Attestation error: RCAR handshake Auth failed: "
ATTEST = (401, "AttestationError", "Attestation error: RCAR handshake Attest failed")


def broker(clock: FakeClock | None = None, **settings: Any) -> Broker:
    made = Broker(Settings(**settings), clock or FakeClock())
    made.repository.put("default/key/1", b"attested secret")
    return made


# --- /auth -----------------------------------------------------------------------------------------


def test_a_challenge_is_32_random_bytes_and_an_empty_string() -> None:
    kbs = broker()
    first, second = (json.loads(kbs.answer(post("auth", REQUEST)).body) for _ in range(2))
    assert set(first) == {"nonce", "extra-params"}
    assert first["extra-params"] == ""
    assert len(base64.b64decode(first["nonce"], validate=True)) == 32
    assert first["nonce"] != second["nonce"]


def test_the_cookie_has_expires_and_nothing_else() -> None:
    answer = broker(FakeClock(wall=1_795_348_800.0)).answer(post("auth", REQUEST))
    assert re.fullmatch(r"kbs-session-id=[0-9a-f]{32}; Expires=Sun, 22 Nov 2026 12:05:00 GMT", answer.cookie)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (
            REQUEST | {"version": "0.3.0"},
            "KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.3.0",
        ),
        (
            REQUEST | {"version": "0.4.0-rc1"},
            "KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.4.0-rc1",
        ),
        (REQUEST | {"version": "0.4"}, "failed to parse KBS version"),
        (REQUEST | {"version": "00.4.0"}, "failed to parse KBS version"),
        (REQUEST | {"tee": "sev"}, "deserialize Request"),
        (REQUEST | {"tee": "Sample"}, "deserialize Request"),
        ({"version": "0.4.0", "tee": "sample"}, "deserialize Request"),
        (b"", "deserialize Request"),
        (b"\xff", "deserialize Request"),
        (REQUEST | {"tee": "se"}, "Attestation Service generate challenge failed"),
    ],
)
def test_auth_failures_name_their_outermost_cause(body: Any, cause: str) -> None:
    assert problem(broker().answer(post("auth", body))) == (401, "AttestationError", AUTH + cause)


@pytest.mark.parametrize("extra", ["", None, {}, {"supported-hash-algorithms": ["sha256"]}, 7, [1]])
def test_extra_params_may_be_any_json(extra: Any) -> None:
    answer = broker().answer(post("auth", REQUEST | {"extra-params": extra, "more": 1}))
    assert answer.status == 200


def test_build_metadata_of_the_version_is_ignored() -> None:
    assert broker().answer(post("auth", REQUEST | {"version": "0.4.0+x"})).status == 200


def test_a_selected_hash_is_announced_to_clients_that_know_it() -> None:
    kbs = broker(selected_hash="sha256")
    offer = REQUEST | {"extra-params": {"supported-hash-algorithms": ["sha256", "sha384"]}}
    answer = kbs.answer(post("auth", offer))
    challenge = json.loads(answer.body)
    assert challenge["extra-params"] == {"selected-hash-algorithm": "sha256"}
    body = Guest().attestation(challenge["nonce"], algorithm="sha256")
    assert kbs.answer(post("attest", body, cookie_of(answer))).status == 200
    assert json.loads(kbs.answer(post("auth", REQUEST)).body)["extra-params"] == ""
    refused = kbs.answer(post("auth", REQUEST | {"extra-params": {"supported-hash-algorithms": []}}))
    assert problem(refused)[2] == AUTH + "Attestation Service generate challenge failed"


# --- /attest ---------------------------------------------------------------------------------------


def test_a_handshake_ends_with_a_token_and_the_same_cookie() -> None:
    kbs, guest = broker(), Guest()
    challenge = kbs.answer(post("auth", REQUEST))
    body = guest.attestation(json.loads(challenge.body)["nonce"], device=True)
    reply = kbs.answer(post("attest", body, cookie_of(challenge)))
    assert (reply.status, reply.content_type, reply.cookie) == (200, "application/json", challenge.cookie)
    assert list(json.loads(reply.body)) == ["token"]
    assert set(claims_of(json.loads(reply.body)["token"])["submods"]) == {"cpu0", "gpu0"}


def test_every_attest_failure_looks_the_same() -> None:
    clock = FakeClock()
    kbs, guest = broker(clock), Guest()
    challenge = kbs.answer(post("auth", REQUEST))
    cookie, nonce = cookie_of(challenge), json.loads(challenge.body)["nonce"]
    good = guest.attestation(nonce)
    wrong_key = good | {"runtime-data": {"nonce": nonce, "tee-pubkey": Guest().public}}
    akp = good | {"runtime-data": {"nonce": nonce, "tee-pubkey": {"kty": "AKP", "alg": "x", "pub": "x"}}}
    init = guest.attestation(nonce, init_data={"format": "json", "body": "{}"})
    for body, sent in (
        (good, ""),
        (good, "0" * 32),
        (guest.attestation("other nonce"), cookie),
        (guest.attestation("nönce"), cookie),
        (wrong_key, cookie),
        (akp, cookie),
        (init, cookie),
        (b"{}", cookie),
    ):
        assert problem(kbs.answer(post("attest", body, sent))) == ATTEST
    clock.advance(301)
    assert problem(kbs.answer(post("attest", good, cookie))) == ATTEST


def test_an_attested_session_returns_its_token_without_looking_again() -> None:
    kbs, guest = broker(), Guest()
    token, cookie = attest(kbs, guest)
    again = kbs.answer(post("attest", guest.attestation("any nonce at all"), cookie))
    assert json.loads(again.body)["token"] == token
    assert problem(kbs.answer(post("attest", b"not json", cookie))) == ATTEST
    assert (kbs.counters["attest"], kbs.counters["verified"]) == (3, 1)


# --- resources -------------------------------------------------------------------------------------


def test_a_resource_is_encrypted_to_the_key_in_the_token() -> None:
    kbs, guest = broker(), Guest("P-521")
    token, cookie = attest(kbs, guest)
    for call in (
        get("resource/default/key/1", bearer=token),
        get("resource/default/key/1", cookie=cookie),
        get("resource/default/key/1", cookie="f" * 32, bearer=token),
    ):
        answer = kbs.answer(call)
        assert (answer.status, answer.content_type, answer.cookie) == (200, "application/json", "")
        assert guest.decrypt(answer.body) == b"attested secret"


def test_the_token_of_an_attested_session_goes_before_the_bearer() -> None:
    kbs, guest = broker(), Guest()
    _, cookie = attest(kbs, guest)
    answer = kbs.answer(get("resource/default/key/1", cookie=cookie, bearer="rubbish"))
    assert guest.decrypt(answer.body) == b"attested secret"


def test_no_token_at_all() -> None:
    kbs = broker()
    unattested = cookie_of(kbs.answer(post("auth", REQUEST)))
    for cookie in ("", unattested, "f" * 32):
        answer = kbs.answer(get("resource/default/key/1", cookie=cookie))
        assert problem(answer) == (401, "TokenNotFound", "Attestation Token not found")


def test_an_expired_session_falls_back_to_the_bearer() -> None:
    clock = FakeClock()
    kbs, guest = broker(clock, session_life=60.0), Guest()
    token, cookie = attest(kbs, guest)
    clock.advance(61)
    assert problem(kbs.answer(get("resource/default/key/1", cookie=cookie)))[1] == "TokenNotFound"
    assert kbs.answer(get("resource/default/key/1", cookie=cookie, bearer=token)).status == 200


def test_tokens_end_with_their_life_or_their_signer() -> None:
    clock = FakeClock()
    kbs = broker(clock)
    token, cookie = attest(kbs, Guest())
    refused = (401, "TokenVerifierError", "Token Verifier error")
    assert problem(kbs.answer(get("resource/default/key/1", bearer=token + "x"))) == refused
    clock.advance(299)
    kbs.rotate_signer()
    assert problem(kbs.answer(get("resource/default/key/1", bearer=token))) == refused
    assert problem(kbs.answer(get("resource/default/key/1", cookie=cookie))) == refused
    token, _ = attest(kbs, Guest())
    clock.advance(361)
    assert problem(kbs.answer(get("resource/default/key/1", bearer=token))) == refused


def test_policy_plugin_and_path_problems() -> None:
    kbs = broker()
    token, _ = attest(kbs, Guest())

    def ask(path: str) -> tuple[int, str, str]:
        return problem(kbs.answer(get(path, bearer=token)))

    internal = (401, "PluginInternalError", "Plugin internal error")
    assert ask("resource/default/key/2") == internal
    for path in ("a/b", "a/b/c/d", "/default/key/1", "default/key/.1", "default/k%y/1", "a/b/c/", ""):
        assert ask(f"resource/{path}") == internal
    assert ask("nebula-ca/credential") == (404, "PluginNotFound", "Plugin nebula-ca not found")
    assert ask("auth") == (404, "PluginNotFound", "Plugin auth not found")
    kbs.policy.deny("default/*")
    assert ask("resource/default/key/1") == (401, "PolicyDeny", "Access denied by policy")
    assert (kbs.counters["policy_denied"], kbs.counters["policy_allowed"]) == (1, 8)


def test_the_plugin_is_looked_up_before_the_token() -> None:
    assert problem(broker().answer(get("nope/x")))[1] == "PluginNotFound"


def test_trustees_default_policy_denies_sample_evidence() -> None:
    kbs = broker(trustee_default_policy=True)
    token, _ = attest(kbs, Guest())
    assert problem(kbs.answer(get("resource/default/key/1", bearer=token)))[1] == "PolicyDeny"


def test_a_key_that_cannot_be_used_shows_only_at_the_resource() -> None:
    kbs = broker()
    token, _ = attest(kbs, Guest("P-384"))
    answer = kbs.answer(get("resource/default/key/1", bearer=token))
    assert problem(answer) == (401, "JweError", "JWE failed")


def test_raw_and_encrypted_plugins() -> None:
    kbs, guest = broker(), Guest()
    token, _ = attest(kbs, guest)
    kbs.repository.add_plugin("external", encrypted=False)
    kbs.repository.add_plugin("nebula-ca", encrypted=True)
    kbs.repository.put("backend/x", b"raw \x00", "external")
    kbs.repository.put("credential", b"{}", "nebula-ca")
    raw = kbs.answer(get("external/backend/x", bearer=token))
    assert (raw.status, raw.content_type, raw.body) == (200, "text/xml", b"raw \x00")
    assert guest.decrypt(kbs.answer(get("nebula-ca/credential", bearer=token)).body) == b"{}"


def test_passport_mode() -> None:
    first, second, guest = broker(), broker(attestation=False), Guest()
    assert problem(second.answer(post("auth", REQUEST))) == (404, "PluginNotFound", "Plugin auth not found")
    token, _ = attest(first, guest)
    assert problem(second.answer(get("resource/default/key/1", bearer=token)))[1] == "TokenVerifierError"
    second.trust(first.signer)
    assert guest.decrypt(second.answer(get("resource/default/key/1", bearer=token)).body)


# --- administration --------------------------------------------------------------------------------


def test_resources_are_uploaded_and_deleted() -> None:
    kbs, guest = broker(), Guest()
    token, _ = attest(kbs, guest)
    stored = kbs.answer(post("resource/default/key/2", b"new"))
    assert (stored.status, stored.body, stored.content_type) == (200, b"", "text/xml")
    assert guest.decrypt(kbs.answer(get("resource/default/key/2", bearer=token)).body) == b"new"
    delete = Call("DELETE", ("resource", "default", "key", "2"))
    assert kbs.answer(delete).status == 200
    assert problem(kbs.answer(delete))[1] == "PluginInternalError"
    assert problem(kbs.answer(post("resource/default/key/.x", b"")))[1] == "PluginInternalError"
    assert problem(kbs.answer(Call("PUT", ("resource", "a", "b", "c"))))[1] == "PluginInternalError"


@pytest.mark.parametrize("reason", ["closed", "web page"])
def test_administration_can_be_closed_and_is_closed_to_web_pages(reason: str) -> None:
    kbs = broker(admin=reason != "closed")
    for call, kind, text in (
        (
            post("resource/a/b/c", b"x"),
            "AdminAuthInitialization",
            "failed to initialize [admin] configuration: Admin access denied: ",
        ),
        (get("resource-policy"), "AdminAuthAccess", "admin access denied for endpoint "),
    ):
        status, got, detail = problem(kbs.answer(replace(call, origin=reason == "web page")))
        assert (status, got) == (401, kind)
        assert detail.startswith(text)
    assert "a/b/c" not in kbs.repository.plugin("resource").items


def rego(text: str) -> dict[str, str]:
    return {"policy": base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()}


def test_only_policies_that_need_no_engine_are_taken() -> None:
    kbs = broker()
    token, _ = attest(kbs, Guest())
    deny = rego("package policy\n\ndefault allow = false  # nobody\n")
    assert kbs.answer(post("resource-policy", deny)).status == 200
    assert problem(kbs.answer(get("resource/default/key/1", bearer=token)))[1] == "PolicyDeny"
    assert kbs.answer(post("resource-policy", rego("package policy\nallow = true"))).status == 200
    assert kbs.answer(get("resource/default/key/1", bearer=token)).status == 200
    for body in (rego("package policy\nallow { input.x }"), {"policy": "%"}, {}, b"x"):
        assert problem(kbs.answer(post("resource-policy", body)))[1] == "ParsePolicyError"
    assert json.loads(kbs.answer(get("resource-policy")).body) == ["resource-policy"]


def test_seeding_an_illegal_path_is_the_callers_mistake() -> None:
    for path, plugin in (("a/b", "resource"), ("a/b/c", "nope")):
        with pytest.raises(AgentError) as caught:
            broker().repository.put(path, b"", plugin)
        assert caught.value.code is ErrorCode.INVALID_URI


# --- the rest --------------------------------------------------------------------------------------


def test_faults_that_change_the_token() -> None:
    clock = FakeClock()
    for fault, low, high in (
        (Fault(Kind.EXPIRED_TOKEN), clock.wall() - 120, 8_000),
        (Fault(Kind.EXPIRED_TOKEN, seconds=30), clock.wall() - 30, 8_000),
        (Fault(Kind.HUGE_TOKEN, size=100_000), clock.wall() + 300, 200_000),
    ):
        kbs, guest = broker(clock), Guest()
        challenge = kbs.answer(post("auth", REQUEST))
        body = guest.attestation(json.loads(challenge.body)["nonce"])
        reply = json.loads(kbs.answer(post("attest", body, cookie_of(challenge)), fault).body)
        assert claims_of(reply["token"])["exp"] == low
        assert len(reply["token"]) < high
    assert len(reply["token"]) > 100_000


def test_sessions_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    clock = FakeClock()
    held = sessions.Sessions(clock, 300)
    opened = [held.open("sample", "sha384") for _ in range(4)]
    assert len(held) == 3
    assert held.find(opened[0].id) is None
    assert held.find(opened[3].id) is opened[3]
    clock.advance(301)
    held.open("sample", "sha384")
    assert len(held) == 1


def test_secrets_do_not_print(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    kbs = broker()
    token, cookie = attest(kbs, Guest())
    kbs.policy.deny()
    call = get("resource/default/key/1", cookie=cookie, bearer=token)
    kbs.answer(call)
    session = kbs.sessions.find(cookie)
    shown = f"{caplog.text}{call!r}{session!r}{kbs.repository.plugin('resource')!r}"
    assert "PolicyDeny" in caplog.text
    for secret in (token, cookie, "attested secret"):
        assert secret not in shown


def test_counters_cannot_be_misspelt() -> None:
    counters = Counters()
    counters.add("auth")
    assert (counters["auth"], counters["attest"], dict(counters)["auth"]) == (1, 0, 1)
    assert repr(counters) == "Counters({'auth': 1})"
    with pytest.raises(KeyError):
        counters["atest"]
    with pytest.raises(KeyError):
        counters.add("atest")
    assert "kbs_auth_requests_total 1\n" in counters.render()
    counters.reset()
    assert counters["auth"] == 0


@settings(max_examples=150)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=st.sampled_from(["auth", "attest", "resource", "resource-policy"]) | st.text(max_size=10),
    rest=st.lists(st.text(max_size=5), max_size=4),
    body=st.binary(max_size=40),
    credentials=st.tuples(st.text(max_size=20), st.text(max_size=10)),
)
def test_any_request_gets_an_answer(
    method: str, path: str, rest: list[str], body: bytes, credentials: tuple[str, str]
) -> None:
    kbs = broker()
    bearer, cookie = credentials
    answer = kbs.answer(Call(method, (path, *rest), body=body, bearer=bearer, cookie=cookie))
    assert answer.status in {200, 401, 404}
    if answer.status != 200:
        assert problem(answer)[0] == answer.status
