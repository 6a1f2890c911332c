"""HTTP to key management services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.config.model import Kms


@dataclass(frozen=True, slots=True)
class KmsAnswer:
    """What a service answered.

    Attributes:
        status: HTTP status.
        body: at most ``limits.KMS_MAX_ANSWER`` bytes.
    """

    status: int
    body: bytes


class KmsHttp:
    """One pool of connections for all backends; redirects are not followed."""

    def __init__(self, settings: Kms) -> None:
        self._settings = settings

    def allowed(self, url: str) -> str:
        """``url`` without trailing slashes, if credentials may be sent there.

        Raises:
            AgentError: KMS_ENDPOINT_REFUSED.
        """
        raise NotImplementedError((self._settings, url))

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, deadline: Deadline
    ) -> KmsAnswer:
        """One exchange.

        Raises:
            AgentError: KMS_UNREACHABLE, KMS_TIMEOUT, KMS_BAD_RESPONSE.
        """
        raise NotImplementedError((method, url, headers, body, deadline))

    async def close(self) -> None:
        """Close the connections."""
