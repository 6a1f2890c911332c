"""The one place every protocol calls: it limits, measures, logs and audits each request once.

Only :class:`agent.errors.AgentError` (and cancellation) leaves it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from agent.clock import Deadline
from agent.config import limits
from agent.errors import AgentError, ErrorCode, Fault
from agent.observe.redact import locations
from agent.roles import Fetched, MeasurementResult
from agent.serve.access import Call, Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent.clock import Clock
    from agent.observe.audit import Audit
    from agent.observe.metrics import Metrics
    from agent.roles import AttesterRole, HubRole
    from agent.secret import Secret

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ID_POOL = 256

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
        kept: what the hub can answer without asking anybody, by URI; None when that is nothing.
        changed: told what changed about this guest that the broker may judge it by.

    Attributes:
        hub, attester, kept: as given; whoever opens and closes roles sets them anew.

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
        kept: Callable[[str], Fetched | None] | None = None,
        changed: Callable[[str], None] | None = None,
    ) -> None:
        self.hub = hub
        self.attester = attester
        self._metrics = metrics
        self._audit = audit
        self._clock = clock
        self.kept = kept
        self._changed = changed
        self._ids = ""
        self._at = 0

    def call(self, api: str, peer: str, timeout: float | None = None, *, largest: int | None = None) -> Call:
        """A new request with an id of its own.

        Args:
            api: ``rest``, ``ttrpc`` or ``cli``.
            peer: see :attr:`Caller.peer`.
            timeout: seconds the caller waits; None, 0 or less: ``limits.RPC_DEADLINE``.
            largest: see :attr:`Call.largest`.
        """
        seconds = timeout if timeout is not None and timeout > 0 else limits.RPC_DEADLINE
        return Call(Caller(api, peer), self._request_id(), Deadline.after(self._clock, seconds), largest)

    def _request_id(self) -> str:
        # T-LOG-5: ids are random, so that one guest's load cannot be read from another's answers.
        if self._at >= len(self._ids):
            self._ids, self._at = secrets.token_hex(_ID_POOL * 8), 0  # one system call for many
        self._at += 16
        return self._ids[self._at - 16 : self._at]

    async def get_resource(self, call: Call, uri: str, *, refresh: bool = False) -> Fetched:
        """The resource at a ``kbs://`` URI of at most ``limits.URI_MAX`` bytes.

        ``refresh`` asks the broker, whatever is kept.
        """

        async def work() -> Fetched:
            # T-REST-1, T-TTRPC-1: bounded before anybody parses it.
            _bound("the resource URI", _octets(uri), limits.URI_MAX)
            fetched = await self._need_hub().get_resource(uri, call.deadline, refresh=refresh)
            _fit(call, fetched.secret)
            return fetched

        kept = None if refresh else self.kept_resource(call, uri)
        return await self._run(call, "get_resource", work, uri=uri) if kept is None else kept

    def kept_resource(self, call: Call, uri: str) -> Fetched | None:
        """What :meth:`get_resource` can answer without waiting for anybody; None: it has to be called."""
        fetched = None if self.kept is None else self.kept(uri)
        if fetched is None:
            return None
        began = self._clock.boot()
        result = "ok"
        try:
            _fit(call, fetched.secret)
        except AgentError as error:
            result = error.code.name
            self._log_failure(call, "get_resource", error, uri)
            raise
        finally:
            cache = None if result != "ok" else fetched.freshness.value.lower()
            what = self._audit.names.show(uri)
            self._account(call, "get_resource", result, what, began=began, cache=cache)
        return fetched

    async def unseal(self, call: Call, sealed: bytes) -> Secret:
        """Plaintext of a sealed secret of at most ``limits.SEALED_MAX`` bytes."""
        return await self._unseal(call, sealed, lambda secret: _fit(call, secret))

    async def _unseal(self, call: Call, sealed: bytes, take: Callable[[Secret], None]) -> Secret:
        """``take`` refuses what the answer cannot hold, before it is audited as handed out."""

        async def work() -> Secret:
            # T-SEAL-30: bounded before base64 and JSON see it.
            _bound("the sealed secret", len(sealed), limits.SEALED_MAX)
            secret = await self._need_hub().unseal(sealed, call.deadline)
            take(secret)
            return secret

        return await self._run(call, "unseal", work, blob=sealed)

    async def unseal_all(self, call: Call, sealed: Sequence[bytes]) -> tuple[Secret | AgentError, ...]:
        """Plaintext or reason for each of at most ``limits.UNSEAL_MAX_ITEMS`` sealed secrets, in their order.

        They are opened at the same time, so that they share the fetch of their signing key. Each is audited
        on its own, and none spoils the others. Their plaintext together is bounded by
        ``limits.UNSEAL_MAX_ANSWER``: what comes after that is KBS_RESPONSE_TOO_LARGE.
        """
        if len(sealed) > limits.UNSEAL_MAX_ITEMS:
            await self._run(call, "unseal", lambda: _too_many(len(sealed)))
        left = limits.UNSEAL_MAX_ANSWER
        results: list[Secret | AgentError] = [AgentError(ErrorCode.CANCELLED)] * len(sealed)

        def take(secret: Secret) -> None:
            nonlocal left
            # T-SEAL-17: small secrets can stand for large plaintext, and one answer holds all of it.
            _fit(replace(call, largest=left if call.largest is None else min(left, call.largest)), secret)
            left -= len(secret)

        async def one(position: int, text: bytes) -> None:
            try:
                results[position] = await self._unseal(call, text, take)
            except AgentError as error:
                results[position] = error

        async with asyncio.TaskGroup() as group:
            for position, text in enumerate(sealed):
                group.create_task(one(position, text))
        return tuple(results)

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

    async def token(
        self, call: Call, token_type: str, *, refused: bytes = b"", session: bool = False
    ) -> Secret:
        """A token; for ``kbs`` with the TEE's private key (kbs_protocol.md 5.1).

        ``refused`` is the SHA-256 of a token that must not be given again, or empty; ``session`` asks for the
        broker's session, too.
        """
        return await self._run(
            call,
            "token",
            lambda: self._need_attester().token(token_type, call.deadline, refused=refused, session=session),
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
        self,
        call: Call,
        domain: str,
        operation: str,
        content: str,
        register: int | None,
        *,
        once: bool = False,
    ) -> MeasurementResult:
        """Extend a runtime measurement; the three strings share ``limits.REST_MAX_BODY`` bytes.

        With ``once``, an event that the log has already is not measured again.
        """

        async def work() -> MeasurementResult:
            total = _octets(domain) + _octets(operation) + _octets(content)
            _bound("the event", total, limits.REST_MAX_BODY)
            attester = self._need_attester()
            result = MeasurementResult.OK  # as far as anybody knows when it fails: it may have been too late
            try:
                result = await attester.extend(domain, operation, content, register, call.deadline, once=once)
                return result
            finally:
                if self._changed is not None and result is MeasurementResult.OK:
                    self._changed("a runtime measurement was extended")

        return await self._run(call, "extend", work)

    async def bind_init_data(self, call: Call, digest: bytes) -> None:
        """Bind an init-data digest to the TEE."""

        async def work() -> None:
            _bound("the init-data digest", len(digest), limits.MAX_RUNTIME_DATA)
            await self._need_attester().bind_init_data(digest, call.deadline)
            if self._changed is not None:
                self._changed("init-data was bound")

        await self._run(call, "bind_init_data", work)

    def _need_hub(self) -> HubRole:
        if self.hub is None:
            raise AgentError(ErrorCode.FEATURE_DISABLED, "this daemon holds no hub role")
        return self.hub

    def _need_attester(self) -> AttesterRole:
        if self.attester is None:
            raise AgentError(ErrorCode.FEATURE_DISABLED, "this daemon holds no attester role")
        return self.attester

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
        answer: T | None = None
        try:
            async with call.deadline.backstop(f"serving {verb}", layers=2):
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
            cache = answer.freshness.value.lower() if isinstance(answer, Fetched) else None
            self._account(call, verb, result, what, began=began, cache=cache)

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

    def _account(
        self, call: Call, verb: str, result: str, what: str | None, *, began: float, cache: str | None
    ) -> None:
        seconds = self._clock.boot() - began
        self._metrics.request(call.caller.api, verb, result)
        if _log.isEnabledFor(logging.DEBUG):
            extra = {**_who(call, verb), "result": result, "seconds": round(seconds, 6)}
            _log.debug("request done", extra=extra)
        if verb in _NOT_AUDITED:
            return
        self._audit.record(
            api=call.caller.api,
            peer=call.caller.peer,
            verb=verb,
            resource=what,
            result=result,
            request_id=call.request_id,
            cache=cache,
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


def _fit(call: Call, secret: Secret) -> None:
    """Refuse what the caller's API cannot carry, before it is audited as handed out."""
    if call.largest is not None and len(secret) > call.largest:
        detail = f"{len(secret)} bytes, an answer over {call.caller.api} holds {call.largest}"
        raise AgentError(ErrorCode.KBS_RESPONSE_TOO_LARGE, detail)


async def _too_many(count: int) -> None:
    # T-SEAL-16: each is a task and a line of the audit log.
    detail = f"{count} sealed secrets in one request, more than {limits.UNSEAL_MAX_ITEMS}"
    raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, detail)


def _bound(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, f"{what} has {size} bytes, more than {limit}")
