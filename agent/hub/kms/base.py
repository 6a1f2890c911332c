"""What every key management backend of the hub offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.secret import Secret


class Getter(Protocol):
    """A backend that hands out secrets by name (cdh.md 5)."""

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """The plaintext stored under ``name``.

        Args:
            name: as the backend names its secrets; a resource URI for the key broker.
            annotations: backend-specific members of the request; the key broker has none.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: INVALID_URI, RESOURCE_NOT_FOUND, RESOURCE_DENIED and whatever else keeps the
                backend from answering.
        """
