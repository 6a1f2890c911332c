"""The hub role: resources, sealed secrets and image layer keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.clock import SystemClock
from agent.config import model
from agent.errors import AgentError, ErrorCode
from agent.hub.cache import ResourceCache
from agent.hub.image_keys import unwrap_key
from agent.hub.kms.kbs import KbsGetter
from agent.hub.kms.offline_fs import OfflineFsGetter
from agent.hub.kms.registry import Backends
from agent.hub.resources import Resources
from agent.hub.sealed import Unsealer

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Clock, Deadline
    from agent.hub.kms.base import Getter
    from agent.hub.kms.http import KmsHttp
    from agent.kbs.resources import ResourceClient
    from agent.observe.metrics import Metrics
    from agent.roles import Fetched
    from agent.secret import Secret


class Hub:
    """An :class:`agent.roles.HubRole` in this process."""

    def __init__(
        self,
        config: model.Hub,
        resources: ResourceClient | None,
        metrics: Metrics,
        *,
        clock: Clock | None = None,
        identity: Callable[[], str] = lambda: "",
        kms_http: KmsHttp | None = None,
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        """Wire the parts; nothing is opened, and a wrong configuration shows at the first request.

        Args:
            config: which key broker client to use, and which sealed secrets to accept.
            resources: the broker's client, or None when no broker is configured.
            metrics: counts fetches.
            clock: for the lives of kept resources; injected in tests.
            identity: what the broker judges this guest by (``KbsToken.identity``); empty while unknown.
            kms_http: the way out to key management services; injected in tests.
            hurry: see :class:`agent.hub.resources.Resources`.

        Raises:
            AgentError: CONFIG_INVALID, a cache rule that cannot be read.
        """
        # Offline stores are files of the guest: there is nothing to save, and an edit shows at once.
        kept = config.cache if config.kbc == "cc_kbc" else model.Cache(negative_ttl=0)
        time = clock or SystemClock()
        cache = ResourceCache(kept, time, identity)
        self.resources = Resources(lambda: choose_getter(config, resources), metrics, cache, hurry=hurry)
        self.backends = Backends(config.kms, self.resources, time, http=kms_http)
        self._unsealer = Unsealer(config.sealed, self.resources, self.backends)

    async def get_resource(self, uri: str, deadline: Deadline, *, refresh: bool = False) -> Fetched:
        """See :meth:`agent.roles.HubRole.get_resource`.

        Raises:
            AgentError: see :meth:`agent.hub.resources.Resources.fetch`.
        """
        return await self.resources.fetch(uri, deadline, refresh=refresh)

    def kept(self, uri: str) -> Fetched | None:
        """See :meth:`agent.hub.resources.Resources.kept`."""
        return self.resources.kept(uri)

    def invalidate(self, reason: str) -> None:
        """Forget every kept resource, because something changed that the broker judges this guest by."""
        self.resources.invalidate(reason)

    async def close(self) -> None:
        """Wipe what is kept, and end connections to key management services."""
        await self.backends.close()
        self.resources.close()

    async def unseal(self, sealed: bytes, deadline: Deadline) -> Secret:
        """See :meth:`agent.roles.HubRole.unseal`.

        Raises:
            AgentError: see :meth:`agent.hub.sealed.Unsealer.unseal`.
        """
        return await self._unsealer.unseal(sealed, deadline)

    async def unwrap_key(self, protocol_input: bytes, deadline: Deadline) -> Secret:
        """See :meth:`agent.roles.HubRole.unwrap_key`.

        Raises:
            AgentError: see :func:`agent.hub.image_keys.unwrap_key`.
        """
        return await unwrap_key(protocol_input, self.resources, deadline, self.backends)


def choose_getter(config: model.Hub, resources: ResourceClient | None) -> Getter:
    """The key broker client that ``kbc.name`` names (cdh.md 5.2, 5.3).

    Raises:
        AgentError: KBS_NOT_CONFIGURED, KBC_UNKNOWN.
    """
    if config.kbc == "offline_fs_kbc":
        return OfflineFsGetter(config.offline_stores)
    if config.kbc != "cc_kbc":
        raise AgentError(
            ErrorCode.KBC_UNKNOWN,
            f"unknown kbc name {config.kbc}, only support `cc_kbc`(feature `kbs`) and `offline_fs_kbc`.",
        )
    if resources is None:
        raise AgentError(ErrorCode.KBS_NOT_CONFIGURED, "kbc.name is cc_kbc and kbc.url is empty")
    return KbsGetter(resources)
