"""Resources kept in memory: what may be served again, until when, and what makes it go.

Pure: it is told the time, waits for nothing and asks nobody. user_pains.md rows 2 and 3, kbs_protocol.md 5.6.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.config import limits, patterns
from agent.errors import AgentError, ErrorCode, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Clock
    from agent.config import model
    from agent.config.uri import ResourceUri
    from agent.secret import Secret

log = logging.getLogger("coco.hub")

REMEMBERED: Final = frozenset({ErrorCode.RESOURCE_NOT_FOUND, ErrorCode.RESOURCE_DENIED})
"""Refusals that the broker would repeat a moment later."""

REFUSALS: Final = REMEMBERED | {
    ErrorCode.PLUGIN_NOT_FOUND,
    ErrorCode.KBS_ADMIN_REQUIRED,
    ErrorCode.KBS_POLICY_BROKEN,
    ErrorCode.TOKEN_REJECTED,
}
"""The broker answered, and did not release the resource: what was kept of it goes."""


def unreachable(code: ErrorCode) -> bool:
    """Whether an error says that the broker could not be asked, and nothing about what it would answer.

    A TLS identity that does not verify is not among them: somebody else may be answering.
    """
    return code.meaning.fault is Fault.BROKER and code.meaning.retry


class Key(NamedTuple):
    """A resource as the broker sees it, whatever its spelling.

    Attributes:
        plugin: broker plugin.
        names: path segments, percent escapes decoded.
        query: raw; every part of it may matter to a plugin.
    """

    plugin: str
    names: tuple[str, ...]
    query: str


def key_of(uri: ResourceUri) -> Key:
    """The key of a resource URI."""
    return Key(uri.plugin, uri.names, uri.query)


class Found(msgspec.Struct, frozen=True):
    """A kept resource.

    Attributes:
        secret: a copy for the caller.
        age: seconds since the broker was asked for it.
    """

    secret: Secret
    age: float


class Row(msgspec.Struct, frozen=True):
    """One entry for people.

    Attributes:
        name: canonical URI.
        size: bytes of plaintext.
        age: seconds since the broker was asked.
        left: seconds until the state ends.
        state: ``fresh``, ``stale`` (only for a broker that cannot be reached) or ``refused``.
    """

    name: str
    size: int
    age: float
    left: float
    state: str


class Ticket(msgspec.Struct, eq=False):
    """The right to keep the answer of one fetch; lost when something happens meanwhile.

    Attributes:
        key: what is fetched.
        name: its canonical URI.
        began: boot clock, in seconds.
        void: the answer may be handed out, and not be kept.
    """

    key: Key
    name: str
    began: float
    void: bool = False


class _Kept(msgspec.Struct):
    name: str
    secret: Secret
    since: float
    fresh_until: float
    stale_until: float


class _Refused(msgspec.Struct, frozen=True):
    name: str
    code: ErrorCode
    detail: str
    problem: str | None
    since: float
    until: float


class ResourceCache:
    """What was released, and for a moment what was refused.

    Life is counted on the boot clock from when the broker was asked, so a slow answer is no older than it
    seems. All of it goes when ``identity`` changes: another identity may be refused what this one got.
    """

    def __init__(self, settings: model.Cache, clock: Clock, identity: Callable[[], str] = lambda: "") -> None:
        """Start empty.

        Args:
            settings: rules and bounds.
            clock: for lives.
            identity: stands for what the broker judges this guest by; empty while nothing is known. Asked at
                every look-up, so it has to be quick.

        Raises:
            AgentError: CONFIG_INVALID, a pattern that cannot be read.
        """
        try:
            self._rules = tuple((patterns.parse(rule.pattern), rule) for rule in settings.rules)
        except ValueError as error:
            raise AgentError(ErrorCode.CONFIG_INVALID, f"cache.rules: a pattern {error}") from None
        self._settings = settings
        self._clock = clock
        self._identity = identity
        self._seen = ""
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()  # the least recently used one first
        self._size = 0
        self._refused: dict[Key, _Refused] = {}  # all live equally long: the first to end first
        self._tickets: set[Ticket] = set()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of plaintext kept."""
        return self._size

    # --- looking up -------------------------------------------------------------------------------
    def fresh(self, key: Key) -> Found | None:
        """A resource that needs no asking."""
        self._settle()
        entry = self._kept.get(key)
        if entry is None:
            return None
        now = self._clock.boot()
        if now >= entry.fresh_until:
            return None
        self._kept.move_to_end(key)
        return Found(entry.secret.copy(), now - entry.since)

    def spare(self, key: Key) -> bool:
        """Whether :meth:`stale` would find something."""
        self._settle()
        entry = self._kept.get(key)
        return entry is not None and self._clock.boot() < entry.stale_until

    def stale(self, key: Key) -> Found | None:
        """A resource that may stand in for a broker that cannot be reached; for nothing else."""
        self._settle()
        entry = self._kept.get(key)
        now = self._clock.boot()
        # T-CACHE-2: bounded, so an attacker who cuts the guest off cannot freeze a revoked secret for good.
        if entry is None or now >= entry.stale_until:
            return None
        self._kept.move_to_end(key)
        return Found(entry.secret.copy(), now - entry.since)

    def refusal(self, key: Key) -> AgentError | None:
        """What the broker said a moment ago, if it refused."""
        self._settle()
        refused = self._refused.get(key)
        now = self._clock.boot()
        if refused is None or now >= refused.until:
            return None
        detail = f"remembered for {now - refused.since:.1f} s: {refused.detail}"
        return AgentError(refused.code, detail, problem=refused.problem)

    # --- one fetch --------------------------------------------------------------------------------
    def begin(self, key: Key, name: str) -> Ticket:
        """Call before asking the broker, and :meth:`end` afterwards, however that went."""
        self._settle()
        ticket = Ticket(key, name, self._clock.boot())
        self._tickets.add(ticket)
        return ticket

    def end(self, ticket: Ticket) -> None:
        """The fetch is over."""
        self._tickets.discard(ticket)

    def store(self, ticket: Ticket, secret: Secret) -> None:
        """Keep a copy of what the broker released, if a rule says so and nothing happened meanwhile."""
        self._settle()
        if ticket.void:
            return
        self._remove(ticket.key)
        self._refused.pop(ticket.key, None)
        rule = self._rule(ticket.key)
        if rule is None or len(secret) > self._settings.max_bytes:
            return
        fresh_until = ticket.began + rule.ttl
        stale_until = fresh_until + rule.max_stale
        if self._clock.boot() >= stale_until:
            return
        entry = _Kept(ticket.name, secret.copy(), ticket.began, fresh_until, stale_until)
        self._kept[ticket.key] = entry
        self._size += len(entry.secret)
        # T-CACHE-3: bounded in both; what was not used for longest goes first.
        while len(self._kept) > self._settings.max_entries or self._size > self._settings.max_bytes:
            self._remove(next(iter(self._kept)))

    def refuse(self, ticket: Ticket, error: AgentError) -> None:
        """Take note of a failure; what the broker refuses is no longer handed out."""
        # T-CACHE-4: a denial ends everything that was released before, also for a broker that goes away next.
        if error.code in {ErrorCode.ATTESTATION_REJECTED, ErrorCode.MEASUREMENT_REJECTED}:
            self.invalidate("the broker refused this guest's evidence")
        elif error.code in REFUSALS:
            forgotten = ticket.void
            self._forget(ticket.key)
            if error.code in REMEMBERED and self._settings.negative_ttl and not forgotten:
                self._remember(ticket, error)

    # --- making it go -----------------------------------------------------------------------------
    def drop(self, key: Key) -> int:
        """Wipe one entry; a fetch under way is not kept. How many entries that were: 0 or 1."""
        return self._forget(key)

    def invalidate(self, reason: str) -> int:
        """Wipe all entries; fetches under way are not kept.

        Args:
            reason: for the log: what changed.

        Returns:
            How many entries that were.
        """
        count = len(self._kept) + len(self._refused)
        for entry in self._kept.values():
            entry.secret.wipe()
        self._kept.clear()
        self._refused.clear()
        self._size = 0
        for ticket in self._tickets:
            ticket.void = True
        if count:
            log.info("resource cache dropped", extra={"reason": reason, "count": count})
        return count

    def sweep(self) -> float | None:
        """Wipe what can no longer be served.

        Returns:
            Seconds until there is something to wipe again; None when nothing is kept.
        """
        now = self._clock.boot()
        for key in [key for key, entry in self._kept.items() if now >= entry.stale_until]:
            self._remove(key)
        for key in [key for key, refused in self._refused.items() if now >= refused.until]:
            del self._refused[key]
        ends = [entry.stale_until for entry in self._kept.values()]
        return min(ends) - now if ends else None

    def rows(self) -> list[Row]:
        """All that is kept, without any plaintext; the least recently used one first."""
        self._settle()
        now = self._clock.boot()
        rows = []
        for entry in self._kept.values():
            fresh = now < entry.fresh_until
            until = entry.fresh_until if fresh else entry.stale_until
            state = "fresh" if fresh else "stale"
            if now < until:
                rows.append(Row(entry.name, len(entry.secret), now - entry.since, until - now, state))
        rows += [
            Row(refused.name, 0, now - refused.since, refused.until - now, "refused")
            for refused in self._refused.values()
            if now < refused.until
        ]
        return rows

    def _rule(self, key: Key) -> model.CacheRule | None:
        for pattern, rule in self._rules:
            if pattern.matches(key.plugin, key.names):
                return rule if rule.ttl else None
        return None

    def _settle(self) -> None:
        """Drop everything if this guest is no longer judged by what it was judged by before."""
        current = self._identity()
        if current and current != self._seen:
            if self._seen or self._kept or self._refused:
                # T-CACHE-5: what one identity was given is not handed out under another.
                self.invalidate("the identity of the attestation changed")
            self._seen = current

    def _remove(self, key: Key) -> int:
        entry = self._kept.pop(key, None)
        if entry is None:
            return 0
        self._size -= len(entry.secret)
        entry.secret.wipe()
        return 1

    def _forget(self, key: Key) -> int:
        for ticket in self._tickets:
            if ticket.key == key:
                ticket.void = True
        return self._remove(key) + (self._refused.pop(key, None) is not None)

    def _remember(self, ticket: Ticket, error: AgentError) -> None:
        now = self._clock.boot()
        self._refused[ticket.key] = _Refused(
            ticket.name, error.code, error.detail, error.problem, now, now + self._settings.negative_ttl
        )
        # T-CACHE-6: a caller that tries names cannot fill the memory.
        while len(self._refused) > limits.CACHE_REFUSALS:
            del self._refused[next(iter(self._refused))]
