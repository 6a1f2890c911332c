"""The token a backend works with: of the credentials, or made by logging in with a certificate."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import weakref
from typing import TYPE_CHECKING, Final

import msgspec

from agent.clock import Deadline
from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.kms.credentials import Hidden
from agent.hub.kms.leases import Lease, Leases
from agent.hub.kms.vault.wire import SERVICE, encode_path, invalid, read
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.clock import Clock
    from agent.hub.kms.base import Context
    from agent.hub.kms.credentials import Credentials
    from agent.hub.kms.vault.wire import Service

log = logging.getLogger("coco.hub")

TOKEN: Final = "token"  # noqa: S105  # the name of a method and of a credentials file
CERT: Final = "cert"
IDENTITY: Final = "client.pem"

YOUNG: Final = 10.0
"""Seconds in which a new token has not ended: a refusal is the policy's then, and nobody logs in again."""

_LEAST: Final = 1.0
"""Seconds between renewals of a lease that cannot grow any more."""

_NAP: Final = 60.0
"""Longest sleep: the loop's clock stands still while a guest is suspended, and leases do not."""

_TOKEN: Final = re.compile(rb"[!-~]{1,8192}")


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to log in.

    Attributes:
        method: ``token``: the credentials file ``vault/token`` has one; ``cert``: a client certificate, with
            its key, of ``vault/client.pem``.
        mount: where the method is mounted; for ``cert``.
        role: of that mount; empty: any that takes the certificate.
    """

    method: str = TOKEN
    mount: str = CERT
    role: str = ""


class _Lookup(msgspec.Struct, frozen=True):
    ttl: float
    expire_time: str | None = None
    renewable: bool = False


class _Login(Hidden, frozen=True):
    client_token: str
    lease_duration: float
    renewable: bool = False


class Session:
    """Logs in, and keeps tokens alive."""

    def __init__(self, service: Service, auth: Auth, context: Context) -> None:
        """Prepare; nothing is asked.

        Raises:
            AgentError: KMS_SETTINGS_INVALID.
        """
        if auth.method not in {TOKEN, CERT}:
            raise invalid("auth.method is neither token nor cert")
        self._path = f"auth/{encode_path(auth.mount, 'auth.mount')}/login"
        self._service = service
        self._auth = auth
        self._context = context
        # T-KMS-32: one login for all who wait; a service that is slow is not asked by each of them.
        self._leases: Leases[Secret] = Leases(context.clock, Secret.wipe)
        self._made: Secret | None = None
        self._made_at = -math.inf
        self._given: Secret | None = None
        self._prolonging: asyncio.Task[None] | None = None

    async def token(self, deadline: Deadline, *, refused: Secret | None = None) -> Secret:
        """A token that is good as far as is known; shared, not to be wiped.

        Args:
            deadline: when the caller stops waiting.
            refused: the service refused this one; of a login it is not given out again.

        Raises:
            AgentError: KMS_*, DEADLINE_EXCEEDED, or why the broker did not hand out the credentials.
        """
        if self._auth.method == CERT:
            return await self._leases.get(self._read, self._log_in, deadline, stale=refused)
        try:
            token = await _read_token(self._context.credentials, deadline)
        except AgentError as error:
            if not error.code.meaning.retry:
                self.forget()
            raise
        if self._given is None or self._given != token:
            self._given = token
            self._prolong(token.copy())
        return self._given

    def may_have_ended(self, token: Secret) -> bool:
        """Whether a refusal can mean that this token is no longer good, and another one helps."""
        # T-KMS-35: a secret that the policy refuses, asked for again and again, makes no storm of logins.
        young = token is self._made and self._context.clock.boot() - self._made_at < YOUNG
        return self._auth.method == CERT and not young

    def close(self) -> None:
        """Forget the token."""
        self._leases.close()
        given = self._given
        self.forget()
        if given is not None:
            given.wipe()

    def forget(self) -> None:
        """Look no longer after the token of the credentials. It is not wiped: it may be on its way."""
        if self._prolonging is not None:
            self._prolonging.cancel()
        self._given = None

    async def _read(self, deadline: Deadline) -> Secret:
        return await self._context.credentials.read(SERVICE, IDENTITY, deadline)

    async def _log_in(self, identity: Secret, deadline: Deadline) -> Lease[Secret]:
        # Made anew each time: logins are rare, and connections hang on it.
        trust = await self._context.http.trust(identity=identity)
        body = {"name": self._auth.role} if self._auth.role else {}
        answer = await self._service.ask("POST", self._path, deadline, body=body, trust=trust)
        made = read(answer.auth, _Login, "the login")
        token = made.client_token.encode()
        if not _TOKEN.fullmatch(token):
            raise AgentError(ErrorCode.KMS_BAD_RESPONSE, f"{SERVICE}: the login has no token")
        self._made, self._made_at = Secret(token), self._context.clock.boot()
        # 0 is a token without end, such as root's.
        return Lease(self._made, made.lease_duration or math.inf)

    def _prolong(self, token: Secret) -> None:
        if self._prolonging is not None:
            self._prolonging.cancel()
        # Weak: a backend that was dropped must not be kept, nor its token prolonged.
        work = _prolong(weakref.ref(self), self._service, self._context, token)
        self._prolonging = asyncio.ensure_future(work)


async def _prolong(owner: weakref.ref[Session], service: Service, context: Context, token: Secret) -> None:
    """Renew a token of the credentials before it ends, also while nobody uses it: no login brings it back."""
    ask, clock = _look_up, context.clock
    try:
        while owner() is not None:
            # T-KMS-71: a token that was taken back or replaced is not kept alive at the service.
            if ask is _renew and not await _is_current(context, token):
                if (session := owner()) is not None:
                    session.forget()
                return
            try:
                left = await ask(service, token, Deadline.after(clock, limits.KMS_REQUEST))
            except AgentError as error:
                log.warning("a token is not renewed", extra={"service": SERVICE, "code": error.code.name})
                if not error.code.meaning.retry:
                    return
                await _sleep(clock, limits.TOKEN_REFRESH_PAUSE)
                continue
            if left is None:
                return
            await _sleep(clock, max(left * limits.TOKEN_REFRESH_AT, min(left, _LEAST)))
            ask = _renew
    finally:
        token.wipe()


async def _is_current(context: Context, token: Secret) -> bool:
    """Whether the credentials still have this token; also when that cannot be found out just now."""
    try:
        deadline = Deadline.after(context.clock, limits.ATTEST_DEADLINE)
        return await _read_token(context.credentials, deadline) == token
    except AgentError as error:
        return error.code.meaning.retry


async def _read_token(credentials: Credentials, deadline: Deadline) -> Secret:
    content = await credentials.read(SERVICE, TOKEN, deadline)
    text = content.reveal().strip()
    content.wipe()
    if not _TOKEN.fullmatch(text):
        raise AgentError(ErrorCode.KMS_CREDENTIALS_INVALID, f"{SERVICE}/{TOKEN} is no token")
    return Secret(text)


async def _look_up(service: Service, token: Secret, deadline: Deadline) -> float | None:
    """Seconds that are left; None: nothing to renew."""
    answer = await service.ask("GET", "auth/token/lookup-self", deadline, token=token)
    found = read(answer.data, _Lookup, "the token's lease")
    return found.ttl if found.renewable and found.expire_time is not None else None


async def _renew(service: Service, token: Secret, deadline: Deadline) -> float | None:
    """As :func:`_look_up`, of the new lease."""
    answer = await service.ask("POST", "auth/token/renew-self", deadline, token=token, body={})
    found = read(answer.auth, _Login, "the renewed token")
    return found.lease_duration if found.renewable and found.lease_duration > 0 else None


async def _sleep(clock: Clock, seconds: float) -> None:
    end = clock.boot() + seconds
    while (left := end - clock.boot()) > 0:  # noqa: ASYNC110  # no event to wait for: time passes
        await asyncio.sleep(min(left, _NAP))
