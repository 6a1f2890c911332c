"""The broker without its HTTP server: a request in, an answer out, no IO."""

from __future__ import annotations

import hmac
import logging
import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.devkit.kbs import answers, faults, jwe, tokens, verifiers, wire
from agent.devkit.kbs.answers import Answer, Call, ProblemError
from agent.devkit.kbs.counters import Counters
from agent.devkit.kbs.policy import Policy
from agent.devkit.kbs.repository import RESOURCE, Repository
from agent.devkit.kbs.sessions import Sessions, new_nonce
from agent.tee.evidence.verdict import VENDOR, Roots

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.devkit.kbs.faults import Fault

log = logging.getLogger(__name__)

HASHES: Final = ("sha256", "sha384", "sha512")
_COMMENT: Final = re.compile(r"#[^\n]*")
_REGO: Final = {
    "package policy allow = true": True,
    "package policy default allow = true": True,
    "package policy default allow = false": False,
}
"""The policies that need no Rego engine, white space folded."""


class Settings(msgspec.Struct, frozen=True):
    """How a broker behaves.

    Attributes:
        trustee_default_policy: deny sample evidence, as a fresh Trustee does.
        session_life: seconds from /auth.
        token_life: seconds.
        admin: take administrative requests from anyone on this machine, as Trustee's ``InsecureAllowAll``;
            never on other addresses than loopback.
        attestation: offer /auth and /attest and honour cookies. Off: a resource broker that knows only
            bearer tokens of signers it was told to trust.
        selected_hash: announce this hash in challenges to clients that list it, and refuse others; empty
            for Trustee's own way, which is to say nothing and use sha384.
        roots: where chains of hardware evidence have to end. The vendors' by default; roots of the devkit's
            own simulators are believed only by a broker that was given them.
    """

    trustee_default_policy: bool = False
    session_life: float = 300.0
    token_life: float = 300.0
    admin: bool = True
    attestation: bool = True
    selected_hash: str = ""
    roots: Roots = VENDOR


class _Challenge(msgspec.Struct, frozen=True, rename="kebab"):
    nonce: str
    extra_params: str | dict[str, str]


class _Token(msgspec.Struct, frozen=True):
    token: str


class _PolicyBody(msgspec.Struct, frozen=True):
    policy: str


class Broker:
    """State and decisions of one development KBS.

    Attributes:
        policy: who may read what.
        repository: what there is.
        counters: what happened.
        sessions: open handshakes.
        admin_open: administrative requests are taken.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._signer = tokens.Signer()
        self._trusted: set[tokens.SignerJwk] = set()
        self.policy = Policy(trustee_default=settings.trustee_default_policy)
        self.repository = Repository()
        self.counters = Counters()
        self.sessions = Sessions(clock, settings.session_life)
        self.admin_open = settings.admin
        self._replayed = new_nonce()

    @property
    def signer(self) -> tokens.SignerJwk:
        """Public key of this broker's own tokens."""
        return self._signer.jwk

    def trust(self, signer: tokens.SignerJwk) -> None:
        """Accept another broker's tokens too (passport mode)."""
        self._trusted.add(signer)

    def rotate_signer(self) -> None:
        """A new signing key; tokens of the old one are refused from now on."""
        self._signer = tokens.Signer()

    def answer(self, call: Call, fault: Fault | None = None) -> Answer:
        """What the client gets. ``fault`` matters here only where it changes a token."""
        self.counters.add("requests")
        self.counters.add(call.endpoint)
        replaced = fault.instead() if fault is not None else None
        if replaced is not None:
            return replaced
        try:
            return self._route(call, fault)
        except ProblemError as problem:
            self.counters.add("problems")
            log.info("%s refused: %s (%s)", call.endpoint, problem.kind, problem.reason or problem.detail)
            return problem.answer()

    def _route(self, call: Call, fault: Fault | None) -> Answer:
        if self._settings.attestation and call.endpoint == "auth":
            return self._auth(call, fault)
        if self._settings.attestation and call.endpoint == "attest":
            return self._attest(call, fault)
        if call.plugin == "resource-policy" and call.method in {"GET", "POST"}:
            return self._resource_policy(call)
        self.repository.plugin(call.plugin)
        return self._fetch(call, fault) if call.method == "GET" else self._change(call)

    # --- handshake -----------------------------------------------------------------------------

    def _auth(self, call: Call, fault: Fault | None) -> Answer:
        try:
            request = wire.decode(call.body, wire.Request)
        except wire.MalformedError as error:
            raise answers.auth_problem("deserialize Request", str(error)) from error
        if request.tee not in wire.TEES:
            raise answers.auth_problem("deserialize Request", "unknown tee")
        try:
            version, accepted = wire.parse_version(request.version)
        except wire.MalformedError as error:
            raise answers.auth_problem("failed to parse KBS version", str(error)) from error
        if not accepted:
            raise answers.auth_problem(faults.mismatch(wire.PROTOCOL, version))
        hash_name = self._select_hash(request)
        session = self.sessions.open(request.tee, hash_name or "sha384")
        extra: str | dict[str, str] = {"selected-hash-algorithm": hash_name} if hash_name else ""
        self.counters.add("auth_ok")
        nonce = session.nonce
        if fault is not None and fault.kind is faults.Kind.REPLAYED_NONCE:
            nonce = self._replayed
        body = msgspec.json.encode(_Challenge(nonce, extra))
        return Answer(200, body, answers.JSON, session.set_cookie())

    def _select_hash(self, request: wire.Request) -> str:
        if request.tee == "se":  # its challenge holds a key of the host; there is none here
            raise answers.auth_problem("Attestation Service generate challenge failed", "se")
        selected = self._settings.selected_hash
        if not selected:
            return ""
        try:
            offered = wire.decode(bytes(request.extra_params), wire.HashOffer).supported_hash_algorithms
        except wire.MalformedError:
            offered = None
        if offered is None:
            return ""
        if selected not in offered:
            raise answers.auth_problem("Attestation Service generate challenge failed", "no common hash")
        return selected

    def _attest(self, call: Call, fault: Fault | None) -> Answer:
        try:
            attestation = wire.decode(call.body, wire.Attestation)
        except wire.MalformedError as error:
            raise answers.attest_problem(str(error)) from error
        session = self.sessions.find(call.cookie)
        if session is None:
            raise answers.attest_problem("no cookie" if not call.cookie else "unknown or expired session")
        if not session.token:
            if not hmac.compare_digest(
                attestation.runtime_data.nonce.encode("utf-8"), session.nonce.encode("ascii")
            ):
                raise answers.attest_problem("nonce is not the session's")
            self.counters.add("verified")
            try:
                appraisals = verifiers.verify(
                    session.tee, attestation, session.hash_name, self._settings.roots
                )
            except wire.MalformedError as error:
                raise answers.attest_problem(str(error)) from error
            session.token = self._issue(appraisals, fault)
        self.counters.add("attest_ok")
        return Answer(200, msgspec.json.encode(_Token(session.token)), answers.JSON, session.set_cookie())

    def _issue(self, appraisals: list[verifiers.Appraisal], fault: Fault | None) -> str:
        life, padding = self._settings.token_life, 0
        if fault is not None and fault.kind is faults.Kind.EXPIRED_TOKEN:
            life = faults.expired_life(fault)
        if fault is not None and fault.kind is faults.Kind.HUGE_TOKEN:
            padding = fault.size
        return self._signer.sign(tokens.ear_claims(appraisals, self._clock.wall(), life, padding))

    # --- resources -----------------------------------------------------------------------------

    def _fetch(self, call: Call, fault: Fault | None) -> Answer:
        session = self.sessions.find(call.cookie) if self._settings.attestation else None
        jwt = session.token if session is not None and session.token else call.bearer
        if not jwt:
            raise answers.token_missing()
        claims = tokens.verify(jwt, {self.signer, *self._trusted}, self._clock.wall())
        if not self.policy.permits(call.plugin, call.path, tokens.primary_tee(claims)):
            self.counters.add("policy_denied")
            raise answers.policy_denied()
        self.counters.add("policy_allowed")
        plaintext = self.repository.read(call.plugin, call.path)
        if not self.repository.plugin(call.plugin).encrypted:
            self.counters.add("resource_ok")
            return Answer(200, plaintext, answers.RAW)
        key = tokens.tee_key(claims)
        if fault is not None and fault.kind is faults.Kind.WRONG_KEY:
            key = jwe.stranger(key)
        elif fault is not None and fault.kind is faults.Kind.WRONG_CURVE:
            key = jwe.stranger(key, other_curve=True)
        body = jwe.encrypt(plaintext, key)
        self.counters.add("resource_ok")
        return Answer(200, body, answers.JSON)

    # --- administration ------------------------------------------------------------------------

    def _admit(self, call: Call) -> str:
        """Why an administrative request is refused; empty when it is not."""
        if not self.admin_open:
            return "no credential is accepted"
        # T-DEV-4: a page in the developer's browser must not reach the open administration.
        return "requests of web pages are refused" if call.origin else ""

    def _change(self, call: Call) -> Answer:
        refusal = self._admit(call)
        if refusal:
            detail = f"failed to initialize [admin] configuration: Admin access denied: {refusal}"
            raise ProblemError("AdminAuthInitialization", detail)  # Trustee's own mislabelling
        if call.plugin == RESOURCE and call.method == "POST":
            self.repository.write(call.path, call.body)
        elif call.plugin == RESOURCE and call.method == "DELETE":
            self.repository.delete(call.path)
        else:
            raise answers.plugin_failed("method is not supported by the plugin")
        return Answer(200, b"", answers.RAW)

    def _resource_policy(self, call: Call) -> Answer:
        refusal = self._admit(call)
        if refusal:
            detail = f"admin access denied for endpoint /kbs/v0/resource-policy: {refusal}"
            raise ProblemError("AdminAuthAccess", detail)
        if call.method == "GET":
            return Answer(200, b'["resource-policy"]', answers.JSON)
        allow = _plain_policy(call.body)
        self.policy.clear()
        (self.policy.allow if allow else self.policy.deny)()
        return Answer(200)


def _plain_policy(body: bytes) -> bool:
    try:
        text = wire.unb64url(wire.decode(body, _PolicyBody).policy).decode("utf-8")
    except (wire.MalformedError, UnicodeDecodeError) as error:
        raise ProblemError("ParsePolicyError", "Policy cannot be parsed") from error
    verdict = _REGO.get(" ".join(_COMMENT.sub("", text).split()))
    if verdict is None:
        # T-DEV-5: a policy that is not evaluated must not look as if it were in force.
        raise ProblemError("ParsePolicyError", "the development KBS runs no Rego but allow-all and deny-all")
    return verdict
