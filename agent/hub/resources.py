"""Resources by URI: one fetch at a time for each, whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.clock import Deadline
from agent.config import limits
from agent.flight import SingleFlight
from agent.kbs.uri import parse_uri
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.hub.kms.base import Getter
    from agent.observe.metrics import Metrics

PHASE = "fetching a resource"


class Resources:
    """Fetches from the configured key broker client and keeps nothing afterwards."""

    def __init__(self, choose: Callable[[], Getter], metrics: Metrics) -> None:
        """Prepare; nothing is chosen, opened or asked yet.

        Args:
            choose: makes the configured client at the first request, or raises why it cannot. It is
                asked again by the next request then, so that no failure is latched.
            metrics: counts fetches (``miss``) and callers that joined one (``joined``).
        """
        self._choose = choose
        self._metrics = metrics
        self._getter: Getter | None = None
        self._flights: SingleFlight[str, Secret] = SingleFlight()

    async def get(self, uri: str, deadline: Deadline) -> Secret:
        """Plaintext of the resource at ``uri``; every caller gets a copy of its own.

        Args:
            uri: ``kbs:///<repository>/<type>/<tag>`` or ``kbs+<plugin>:///...``.
            deadline: this caller's. The fetch itself has ``limits.RPC_DEADLINE`` from its start, because
                it also works for those who join later.

        Raises:
            AgentError: INVALID_URI, KBS_NOT_CONFIGURED, KBC_UNKNOWN, DEADLINE_EXCEEDED, or what the
                key broker client raises.
        """
        key = str(parse_uri(uri))
        getter = self._chosen()
        self._metrics.cache("joined" if self._flights.under_way(key) else "miss")

        async def fetch() -> Secret:
            return await getter.get(key, {}, Deadline.after(deadline.clock, limits.RPC_DEADLINE))

        shared = await self._flights.join(key, fetch, deadline, PHASE)
        # T-SEAL-20: a caller that wipes its secret must not empty the hands of the others.
        return Secret(shared.reveal())

    def _chosen(self) -> Getter:
        if self._getter is None:
            self._getter = self._choose()
        return self._getter
