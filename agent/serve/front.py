"""The one place every protocol calls: it limits, measures, logs and audits each request once.

Only :class:`agent.errors.AgentError` (and cancellation) leaves it.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, TypeVar

from agent.clock import Deadline
from agent.config import limits
from agent.errors import AgentError, ErrorCode, Fault
from agent.observe.redact import locations
from agent.serve.access import Call, Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.clock import Clock
    from agent.observe.audit import Audit
    from agent.observe.metrics import Metrics
    from agent.roles import AttesterRole, HubRole, MeasurementResult
    from agent.secret import Secret

T = TypeVar("T")

_log = logging.getLogger(__name__)

_NOT_AUDITED = frozenset({"tee_type", "additional_tees"})
"""They hand out nothing that the host does not know already."""


class Front:
    """What this guest offers, whichever roles it holds.

    Args:
        hub: resources, sealed secrets, image keys; None when this daemon has no hub.
        attester: evidence and tokens; None when this daemon has no attester.
        metrics: requests are counted here.
        audit: one line per secret, token or piece of evidence handed out or refused.
        clock: for deadlines and durations.

    Every method raises AgentError: FEATURE_DISABLED (role missing), PAYLOAD_TOO_LARGE, DEADLINE_EXCEEDED,
    INTERNAL, or what the role raised.
    """

    def __init__(
        self,
        *,
        hub: HubRole | None,
        attester: AttesterRole | None,
        metrics: Metrics,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._hub = hub
        self._attester = attester
        self._metrics = metrics
        self._audit = audit
        self._clock = clock

    def call(self, api: str, peer: str, timeout: float | None = None) -> Call:
        """A new request with an id of its own.

        Args:
            api: ``rest``, ``ttrpc`` or ``cli``.
            peer: see :attr:`Caller.peer`.
            timeout: seconds the caller waits; None, 0 or less: ``limits.RPC_DEADLINE``.
        """
        seconds = timeout if timeout is not None and timeout > 0 else limits.RPC_DEADLINE
        # T-LOG-5: ids are random, so that one guest's load cannot be read from another's answers.
        return Call(Caller(api, peer), secrets.token_hex(8), Deadline.after(self._clock, seconds))

    async def get_resource(self, call: Call, uri: str) -> Secret:
        """Plaintext of the resource at a ``kbs://`` URI of at most ``limits.URI_MAX`` bytes."""

        async def work() -> Secret:
            # T-REST-1, T-TTRPC-1: bounded before anybody parses it.
            _bound("the resource URI", _octets(uri), limits.URI_MAX)
            return _fitting(call, await self._need_hub().get_resource(uri, call.deadline))

        return await self._run(call, "get_resource", work, uri=uri)

    async def unseal(self, call: Call, sealed: bytes) -> Secret:
        """Plaintext of a sealed secret of at most ``limits.SEALED_MAX`` bytes."""

        async def work() -> Secret:
            # T-SEAL-30: bounded before base64 and JSON see it.
            _bound("the sealed secret", len(sealed), limits.SEALED_MAX)
            return _fitting(call, await self._need_hub().unseal(sealed, call.deadline))

        return await self._run(call, "unseal", work, blob=sealed)

    async def unwrap_key(self, call: Call, protocol_input: bytes) -> Secret:
        """Key provider protocol JSON in (at most ``limits.KEY_PROVIDER_MAX`` bytes) and out."""

        async def work() -> Secret:
            # T-IMGKEY-30: bounded before JSON sees it.
            _bound("the key provider request", len(protocol_input), limits.KEY_PROVIDER_MAX)
            return await self._need_hub().unwrap_key(protocol_input, call.deadline)

        return await self._run(call, "unwrap_key", work, blob=protocol_input)

    async def evidence(self, call: Call, runtime_data: bytes) -> bytes:
        """Evidence of the primary TEE over at most ``limits.MAX_RUNTIME_DATA`` bytes, as compact JSON."""

        async def work() -> bytes:
            _bound("the runtime data", len(runtime_data), limits.MAX_RUNTIME_DATA)
            return await self._need_attester().evidence(runtime_data, call.deadline)

        return await self._run(call, "evidence", work)

    async def additional_evidence(self, call: Call, runtime_data: bytes) -> bytes:
        """Compact JSON object of device evidence, or ``b""`` when there are no devices."""

        async def work() -> bytes:
            _bound("the runtime data", len(runtime_data), limits.MAX_RUNTIME_DATA)
            return await self._need_attester().additional_evidence(runtime_data, call.deadline)

        return await self._run(call, "additional_evidence", work)

    async def token(self, call: Call, token_type: str, *, refused: bytes = b"") -> Secret:
        """A token; for ``kbs`` with the TEE's private key (kbs_protocol.md 5.1).

        ``refused`` is the SHA-256 of a token that must not be given again, or empty.
        """
        return await self._run(
            call,
            "token",
            lambda: self._need_attester().token(token_type, call.deadline, refused=refused),
        )

    async def tee_type(self, call: Call) -> str:
        """Wire string of the primary TEE."""
        return await self._run(call, "tee_type", lambda: self._need_attester().tee_type(call.deadline))

    async def additional_tees(self, call: Call) -> tuple[str, ...]:
        """Wire strings of additional devices."""
        return await self._run(
            call, "additional_tees", lambda: self._need_attester().additional_tees(call.deadline)
        )

    async def extend(
        self, call: Call, domain: str, operation: str, content: str, register: int | None
    ) -> MeasurementResult:
        """Extend a runtime measurement; the three strings share ``limits.REST_MAX_BODY`` bytes."""

        async def work() -> MeasurementResult:
            total = _octets(domain) + _octets(operation) + _octets(content)
            _bound("the event", total, limits.REST_MAX_BODY)
            attester = self._need_attester()
            return await attester.extend(domain, operation, content, register, call.deadline)

        return await self._run(call, "extend", work)

    async def bind_init_data(self, call: Call, digest: bytes) -> None:
        """Bind an init-data digest to the TEE."""

        async def work() -> None:
            _bound("the init-data digest", len(digest), limits.MAX_RUNTIME_DATA)
            await self._need_attester().bind_init_data(digest, call.deadline)

        await self._run(call, "bind_init_data", work)

    def _need_hub(self) -> HubRole:
        if self._hub is None:
            raise AgentError(ErrorCode.FEATURE_DISABLED, "this daemon holds no hub role")
        return self._hub

    def _need_attester(self) -> AttesterRole:
        if self._attester is None:
            raise AgentError(ErrorCode.FEATURE_DISABLED, "this daemon holds no attester role")
        return self._attester

    async def _run(
        self,
        call: Call,
        verb: str,
        work: Callable[[], Awaitable[T]],
        *,
        uri: str | None = None,
        blob: bytes | None = None,
    ) -> T:
        """Run one request; ``uri`` or ``blob`` says in the audit line what was asked for."""
        began = self._clock.boot()
        result = ErrorCode.CANCELLED.name  # whatever else leaves: nothing was handed out
        try:
            async with call.deadline.limit(f"serving {verb}"):
                answer = await work()
            result = "ok"
            return answer
        except AgentError as error:
            result = error.code.name
            self._log_failure(call, verb, error, uri)
            raise
        except Exception as error:  # noqa: BLE001 - recorded, and turned into INTERNAL
            result = ErrorCode.INTERNAL.name
            # T-LOG-1: the exception's text can hold what was being processed; only its place is kept.
            _log.error(
                "request failed: defect in the agent",
                extra={
                    **_who(call, verb),
                    "code": result,
                    "error": type(error).__name__,
                    "where": locations(error),
                },
            )
            raise AgentError(ErrorCode.INTERNAL, type(error).__name__) from None
        finally:
            names = self._audit.names
            what = names.show(uri) if uri is not None else names.digest(blob) if blob is not None else None
            self._account(call, verb, result, what, began)

    def _log_failure(self, call: Call, verb: str, error: AgentError, uri: str | None) -> None:
        level = logging.INFO if error.code.meaning.fault is Fault.CALLER else logging.WARNING
        # A guest is often closed to its operator: the log is all there is, so it says what to do next.
        detail = error.detail
        if uri is not None:
            # T-LOG-2: an error's cause may name the resource; whether it shows is the operator's choice.
            detail = self._audit.names.hide(uri, detail)
        detail = self._audit.names.scrub(detail)
        extra = {**_who(call, verb), "code": error.code.name, "detail": detail, "hint": error.hint}
        if error.problem is not None:
            extra["problem"] = error.problem
        _log.log(level, "request failed", extra=extra)

    def _account(self, call: Call, verb: str, result: str, what: str | None, began: float) -> None:
        seconds = self._clock.boot() - began
        self._metrics.request(call.caller.api, verb, result)
        _log.debug("request done", extra={**_who(call, verb), "result": result, "seconds": round(seconds, 6)})
        if verb in _NOT_AUDITED:
            return
        self._audit.record(
            api=call.caller.api,
            peer=call.caller.peer,
            verb=verb,
            resource=what,
            result=result,
            request_id=call.request_id,
        )


def _who(call: Call, verb: str) -> dict[str, object]:
    return {
        "request_id": call.request_id,
        "api": call.caller.api,
        "peer": call.caller.peer,
        "verb": verb,
    }


def _octets(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _fitting(call: Call, secret: Secret) -> Secret:
    """Refuse what the caller's API cannot carry, before it is audited as handed out."""
    if call.caller.api == "ttrpc" and len(secret) > limits.TTRPC_MAX_ANSWER:
        detail = f"{len(secret)} bytes, a ttrpc answer holds {limits.TTRPC_MAX_ANSWER}"
        raise AgentError(ErrorCode.KBS_RESPONSE_TOO_LARGE, detail)
    return secret


def _bound(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, f"{what} has {size} bytes, more than {limit}")
