"""Credentials of key management services: from the key broker after attestation, or from files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Kms
    from agent.hub.resources import Resources
    from agent.secret import Secret


class Credentials:
    """What :class:`agent.config.model.Kms` names."""

    def __init__(self, settings: Kms, resources: Resources) -> None:
        self._settings = settings
        self._resources = resources

    async def read(self, provider: str, name: str, deadline: Deadline) -> Secret:
        """The content of ``<provider>/<name>``."""
        raise NotImplementedError((self._settings, self._resources, provider, name, deadline))
