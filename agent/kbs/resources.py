"""Resources from the broker: fetch, open, and react to refusals by what they mean.

kbs_protocol.md 3.2 to 3.4 (reactions), 9 (which answers are encrypted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs import jwe
from agent.kbs.appraisal import doubts
from agent.kbs.skew import explain
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.uri import ResourceUri
    from agent.kbs.keys import TeeKey
    from agent.kbs.skew import ClockSkew
    from agent.kbs.token import KbsToken, TokenSource
    from agent.observe.metrics import Metrics

ENCRYPTED: Final = "application/json"

RAW: Final = frozenset({"text/xml", "application/octet-stream"})
"""Media types of answers that a plugin gives unencrypted."""


class Broker(Protocol):
    """What fetching needs of a broker; :class:`agent.kbs.client.KbsClient` is one."""

    async def get(self, uri: ResourceUri, token: KbsToken, deadline: Deadline) -> tuple[str, bytes]:
        """Media type and body."""


class ResourceClient:
    """Fetches resources with a guest's token. Keeps nothing: policy and revocation live at the broker.

    What may pass is tried again by the token source and by the client, each for its own part and until the
    deadline; the only loop here is the fresh attestation after a refused token.
    """

    def __init__(
        self, client: Broker, tokens: TokenSource, metrics: Metrics, skew: ClockSkew | None = None
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._metrics = metrics
        self._skew = skew

    async def get(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        """The plaintext of one resource; it may be empty.

        Only a refused token leads to a fresh attestation, ``limits.RESOURCE_ATTESTATIONS`` times; every
        other refusal is final and costs none.

        Raises:
            AgentError: what the broker's answer means (RESOURCE_DENIED, RESOURCE_NOT_FOUND, ...), what
                getting a token raised, JWE_INVALID, KBS_BAD_RESPONSE, CLOCK_SKEW; when the
                time is up, what used it.
        """
        try:
            secret = await self._fetch(uri, deadline)
        except AgentError as error:
            self._metrics.resource_failed(error.code)
            raise
        self._metrics.resource_released()
        return secret

    async def _fetch(self, uri: ResourceUri, deadline: Deadline) -> Secret:
        held = await self._tokens.token(deadline)
        attestations = 0
        while True:
            try:
                media_type, body = await self._client.get(uri, held, deadline)
                return open_answer(media_type, body, held.key)
            except AgentError as error:
                # T-KBS-72: by meaning, since every refusal is a 401. A typo or a denial must not make the
                # guest attest again and again (user_pains.md row 2).
                if error.code is ErrorCode.RESOURCE_DENIED:
                    error.detail += _appraised(held)
                if error.code is not ErrorCode.TOKEN_REJECTED:
                    raise
                if attestations == limits.RESOURCE_ATTESTATIONS:
                    raise explain(error, self._skew, just_attested=True) from None
            attestations += 1
            held = await self._tokens.token(deadline, refused=held)


def _appraised(token: KbsToken) -> str:
    """What a policy may have looked at."""
    said = doubts(token.jwt.reveal().decode("ascii", "replace"))
    return f" (the token says: {said})" if said else ""


def open_answer(media_type: str, body: bytes, key: TeeKey) -> Secret:
    """The plaintext in a good answer.

    Args:
        media_type: lower case, without parameters; empty when the broker named none.
        body: a JWE (kbs_protocol.md 4) or, for some plugins, the value itself.
        key: the one the token is bound to.

    Raises:
        AgentError: JWE_INVALID; KBS_BAD_RESPONSE for a media type that no broker uses.
    """
    if media_type == ENCRYPTED or (not media_type and body.startswith(b"{")):
        return jwe.decrypt(body, key)
    if media_type in RAW:
        return Secret(body)
    # T-KBS-73: a portal's or proxy's page with status 200 is not handed out as a secret.
    raise AgentError(
        ErrorCode.KBS_BAD_RESPONSE, f"/resource answered 200 with {media_type or 'no media type'}"
    )
