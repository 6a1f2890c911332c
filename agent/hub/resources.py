"""Resources by URI: from memory where a rule allows it, else one fetch at a time for each, whoever asks."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.clock import SystemClock
from agent.config import limits, model
from agent.config.uri import parse_uri
from agent.errors import AgentError, ErrorCode
from agent.flight import SingleFlight
from agent.hub.cache import Found, Key, ResourceCache, key_of, unreachable
from agent.kbs.progress import Phase, watch
from agent.roles import Fetched, Freshness

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline
    from agent.config.uri import ResourceUri
    from agent.hub.cache import Row
    from agent.hub.kms.base import Getter
    from agent.kbs.progress import Progress
    from agent.observe.metrics import Metrics
    from agent.secret import Secret

PHASE: Final = "fetching a resource"

_PATIENCE_SHARE: Final = 0.8
"""Of a caller's time: what the broker gets when a kept copy can stand in for it."""

_SWEEP: Final = 1.0
"""Seconds between looks for entries to wipe, at least."""


class Resources:
    """Fetches from the configured key broker client, and keeps what the rules say."""

    def __init__(
        self,
        choose: Callable[[], Getter],
        metrics: Metrics,
        cache: ResourceCache | None = None,
        *,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; nothing is chosen, opened or asked yet.

        Args:
            choose: makes the configured client at the first request, or raises why it cannot. It is
                asked again by the next request then, so that no failure is latched.
            metrics: counts look-ups.
            cache: what may be kept; None: nothing, refusals included.
            hurry: called when a caller joins a fetch, which may be in a pause.
        """
        self._choose = choose
        self._hurry = hurry
        self._metrics = metrics
        # Not "or": an empty cache is false.
        nothing = model.Cache(negative_ttl=0)
        self._cache = cache if cache is not None else ResourceCache(nothing, SystemClock())
        self._getter: Getter | None = None
        self._flights: SingleFlight[Key, Secret] = SingleFlight()
        self._until: dict[Key, Deadline] = {}
        self._progress: dict[Key, Progress] = {}
        self._spellings: dict[str, Key] = {}
        self._timer: asyncio.TimerHandle | None = None

    def kept(self, uri: str) -> Fetched | None:
        """What :meth:`fetch` would answer without asking or waiting for anybody.

        Only for a spelling that was served from memory before, so nothing is parsed.
        """
        key = self._spellings.get(uri)
        found = None if key is None else self._cache.fresh(key)
        return None if found is None else self._fetched(found, Freshness.HIT)

    async def get(self, uri: str, deadline: Deadline, *, stale: bool = True) -> Secret:
        """As :meth:`fetch`, the plaintext alone."""
        return (await self.fetch(uri, deadline, stale=stale)).secret

    async def fetch(
        self, uri: str, deadline: Deadline, *, refresh: bool = False, stale: bool = True
    ) -> Fetched:
        """The resource at ``uri``; every caller gets a copy of its own.

        Args:
            uri: ``kbs:///<repository>/<type>/<tag>`` or ``kbs+<plugin>:///...``.
            deadline: this caller's. A fetch has the deadline of who began it, at most
                ``limits.RPC_DEADLINE``; one who joined it and has more time goes on alone.
            refresh: ask the broker whatever is kept, and whatever it refused a moment ago. A fetch under
                way will do: nobody can tell whether the broker answered it before or after.
            stale: whether a kept copy past its time will do when the broker cannot be reached.

        Raises:
            AgentError: INVALID_URI, KBS_NOT_CONFIGURED, KBC_UNKNOWN, DEADLINE_EXCEEDED, or what the
                key broker client raises.
        """
        parsed = parse_uri(uri)
        key, getter = key_of(parsed), self._chosen()
        if not refresh:
            found = self._cache.fresh(key)
            if found is not None:
                self._learn(uri, key)
                return self._fetched(found, Freshness.HIT)
            refused = self._cache.refusal(key)
            if refused is not None:
                self._metrics.cache("negative")
                raise refused
        spare = stale and not refresh and self._cache.spare(key)
        try:
            return Fetched(await self._ask(getter, parsed, key, deadline, hurried=spare))
        except AgentError as error:
            found = self._cache.stale(key) if spare and unreachable(error.code) else None
            if found is None:
                raise
            return self._fetched(found, Freshness.STALE)

    def rows(self) -> list[Row]:
        """See :meth:`agent.hub.cache.ResourceCache.rows`."""
        return self._cache.rows()

    def drop(self, uri: str) -> int:
        """Wipe what is kept of one resource; how many entries that were.

        Raises:
            AgentError: INVALID_URI.
        """
        return self._cache.drop(key_of(parse_uri(uri)))

    def invalidate(self, reason: str) -> int:
        """Wipe all that is kept; how many entries that were."""
        self._spellings.clear()
        return self._cache.invalidate(reason)

    def close(self) -> None:
        """Wipe all that is kept."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.invalidate("the agent stops")

    # --- asking -----------------------------------------------------------------------------------
    async def _ask(
        self, getter: Getter, uri: ResourceUri, key: Key, deadline: Deadline, *, hurried: bool
    ) -> Secret:
        """Ask the broker, or join those who do.

        Args:
            getter: to ask.
            uri: what for.
            key: of ``uri``.
            deadline: the caller's.
            hurried: something is kept that can stand in, so a broker that does not answer soon is not
                waited for. Trouble of another kind gets the caller's whole time after all.
        """
        while True:
            own = self._share(deadline) if hurried else deadline.within(limits.RPC_DEADLINE)
            joined = self._flights.under_way(key)
            self._metrics.cache("joined" if joined else "miss")
            if joined:
                self._hurry()
            theirs = self._until.get(key, own)
            if not joined:
                self._until[key] = own
            work = partial(self._fly, getter, uri, key, own)
            try:
                shared = await self._flights.join(key, work, own, PHASE)
            except AgentError as failure:
                error = self._told(key, failure) if joined else failure
                code = error.code
                if hurried:
                    again = not unreachable(code)
                else:
                    # Somebody with less time began it: that time was up, not this caller's.
                    again = joined and deadline.at > theirs.at + limits.FETCH_MARGIN
                if not (again and code.meaning.retry and deadline.remaining() > 0):
                    raise error from None
                hurried = False
            else:
                # T-SEAL-20: a caller that wipes its secret must not empty the hands of the others.
                return shared.copy()
            finally:
                if not self._flights.under_way(key):  # cancelled, perhaps before it began
                    self._until.pop(key, None)

    async def _fly(self, getter: Getter, uri: ResourceUri, key: Key, deadline: Deadline) -> Secret:
        ticket = self._cache.begin(key, str(uri))
        progress = self._progress[key] = watch()
        try:
            secret = await getter.get(ticket.name, {}, deadline)
            self._cache.store(ticket, secret)
            self._plan_sweep()
            return secret
        except AgentError as error:
            self._cache.refuse(ticket, error)
            raise
        finally:
            self._cache.end(ticket)
            if self._until.get(key) is deadline:
                del self._until[key]
            if self._progress.get(key) is progress:
                del self._progress[key]

    def _told(self, key: Key, error: AgentError) -> AgentError:
        """For one who joined a fetch and cannot wait until it ends: where it is."""
        progress = self._progress.get(key)
        if error.code is not ErrorCode.DEADLINE_EXCEEDED or progress is None:
            return error
        if progress.phase is Phase.QUEUE:  # nothing was sent yet
            return error
        return AgentError(progress.phase.timeout("resource"), f"time ran out while {progress.phase.value}")

    @staticmethod
    def _share(deadline: Deadline) -> Deadline:
        return deadline.within(min(limits.CACHE_STALE_PATIENCE, _PATIENCE_SHARE * deadline.remaining()))

    # --- keeping ----------------------------------------------------------------------------------
    def _fetched(self, found: Found, freshness: Freshness) -> Fetched:
        self._metrics.cache("hit" if freshness is Freshness.HIT else "stale")
        return Fetched(found.secret, freshness, found.age)

    def _learn(self, uri: str, key: Key) -> None:
        # T-CACHE-7: one resource has many spellings.
        if len(self._spellings) >= limits.CACHE_SPELLINGS:
            self._spellings.clear()
        self._spellings[uri] = key

    def _plan_sweep(self) -> None:
        """Plaintext past its time is overwritten soon, not at the next look-up."""
        wait = self._cache.sweep()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wait is not None:
            self._timer = asyncio.get_running_loop().call_later(max(wait, _SWEEP), self._plan_sweep)

    def _chosen(self) -> Getter:
        if self._getter is None:
            self._getter = self._choose()
        return self._getter
