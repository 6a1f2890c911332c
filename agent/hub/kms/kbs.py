"""``cc_kbc``: resources of a real key broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.config.uri import parse_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.kbs.resources import ResourceClient
    from agent.secret import Secret


class KbsGetter:
    """A :class:`~agent.hub.kms.base.Getter` that asks the configured broker."""

    def __init__(self, resources: ResourceClient) -> None:
        self._resources = resources

    async def get(
        self,
        name: str,
        annotations: Mapping[str, object],  # noqa: ARG002  # the broker has no use for them
        deadline: Deadline,
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`; ``name`` is a resource URI."""
        return await self._resources.get(parse_uri(name), deadline)
