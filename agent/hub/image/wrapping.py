"""Who can unwrap a layer's key: the annotations ``org.opencontainers.image.enc.keys.*`` (cdh.md 6.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, standard_decode, standard_encode
from agent.hub.image import jwe
from agent.hub.image_keys import build_protocol_input, unwrap, wrap
from agent.hub.image_packets import WrappedKey, parse_packet
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agent.hub.image.jwe import PrivateKey, PublicKey

PREFIX: Final = "org.opencontainers.image.enc.keys."
PROVIDER: Final = PREFIX + "provider."
OURS: Final = PROVIDER + "attestation-agent"
JWE: Final = PREFIX + "jwe"


class Wrapping(msgspec.Struct, frozen=True):
    """One way to one layer's private options.

    Attributes:
        scheme: what follows ``org.opencontainers.image.enc.keys.``: ``jwe``, ``provider.attestation-agent``.
        content: annotation packet or JWE, JSON.
    """

    scheme: str
    content: bytes


class _Results(msgspec.Struct, frozen=True):
    optsdata: list[int] | str


class _Output(msgspec.Struct, frozen=True):
    keyunwrapresults: _Results


class _Kid(msgspec.Struct, frozen=True):
    kid: str = ""
    provider: str = "kbs"


def is_wrapping(annotation: str) -> bool:
    """Whether an annotation's name is that of a wrapped key."""
    return annotation.startswith(PREFIX)


def wrappings(annotations: Sequence[tuple[str, str]]) -> tuple[Wrapping, ...]:
    """All wrapped keys of a layer: our provider first, other providers by name, then the rest.

    Raises:
        AgentError: IMAGE_LAYOUT_INVALID when one is empty or not base64, or there are too many.
    """
    found = []
    named = sorted((name, value) for name, value in annotations if is_wrapping(name))
    for name, value in sorted(named, key=lambda pair: (pair[0] != OURS, not pair[0].startswith(PROVIDER))):
        for entry in value.split(","):
            try:
                content = standard_decode(entry.strip())
                if not content:
                    raise ValueError
                found.append(Wrapping(name.removeprefix(PREFIX), content))
            except ValueError:
                raise AgentError(ErrorCode.IMAGE_LAYOUT_INVALID, f"{name} is not base64") from None
    # T-IMGKEY-23: each of them is a question to the broker, which somebody else has written.
    if len(found) > limits.IMAGE_WRAPPINGS_MAX:
        raise AgentError(
            ErrorCode.IMAGE_LAYOUT_INVALID, f"more than {limits.IMAGE_WRAPPINGS_MAX} wrapped keys"
        )
    return tuple(found)


def describe(wrapping: Wrapping) -> str:
    """Who can unwrap it, as far as it says: a key id, or algorithms."""
    try:
        if wrapping.scheme == "jwe":
            return ", ".join(jwe.algorithms(wrapping.content))
        said = read_json(wrapping.content, _Kid, ErrorCode.IMAGE_KEY_MALFORMED, "annotation packet")
    except AgentError:
        return "(unreadable)"
    return said.kid if said.provider == "kbs" else f"{said.provider}: {said.kid}"


class Unwrapper:
    """Tries the ways a layer offers, with what the user has."""

    def __init__(
        self, ask: Callable[[bytes], Awaitable[Secret]] | None, private_key: PrivateKey | None
    ) -> None:
        """Keep both.

        Args:
            ask: annotation packet JSON to private options; None to use no provider.
            private_key: for JWE; None to use none.
        """
        self._ask = ask
        self._private_key = private_key

    async def private_options(self, offered: Sequence[Wrapping]) -> Secret:
        """The private options of a layer.

        Raises:
            AgentError: why the last way that could be tried failed; IMAGE_KEY_UNSUPPORTED: there was none.
        """
        failure = AgentError(ErrorCode.IMAGE_KEY_UNSUPPORTED, self._nothing(offered))
        for way in offered:
            try:
                if way.scheme == "jwe" and self._private_key is not None:
                    return jwe.decrypt(way.content, self._private_key)
                if way.scheme.startswith("provider.") and self._ask is not None:
                    return await self._ask(way.content)
            except AgentError as error:
                # What passes is worth another run of the command, and not the next wrapping's refusal.
                if error.code.meaning.retry:
                    raise
                failure = error
        raise failure

    def _nothing(self, offered: Sequence[Wrapping]) -> str:
        have = [name for name, there in (("provider", self._ask), ("jwe", self._private_key)) if there]
        schemes = sorted({way.scheme for way in offered})
        return f"the key is wrapped for {', '.join(schemes) or 'nobody'}; tried {' and '.join(have)}"


def offline(kek: Secret) -> Callable[[bytes], Awaitable[Secret]]:
    """Unwraps annotation packets with a key that is at hand, whatever key id they name.

    Args:
        kek: 32 raw bytes.
    """

    async def ask(packet: bytes) -> Secret:
        key = parse_packet(packet)
        if not isinstance(key, WrappedKey):
            raise AgentError(ErrorCode.IMAGE_KEY_UNSUPPORTED, "a key management service has wrapped this key")
        return unwrap(key, kek)

    return ask


def remote(unwrap_key: Callable[[bytes], Awaitable[Secret]]) -> Callable[[bytes], Awaitable[Secret]]:
    """Asks a key provider: protocol JSON in, protocol JSON out (cdh.md 2.7)."""

    async def ask(packet: bytes) -> Secret:
        return read_output(await unwrap_key(build_protocol_input(packet)))

    return ask


def read_output(output: Secret) -> Secret:
    """The private options in a key provider's answer: an array of integers, or base64 as Go writes it.

    Raises:
        AgentError: IMAGE_KEY_MALFORMED.
    """
    code = ErrorCode.IMAGE_KEY_MALFORMED
    if len(output) > limits.TTRPC_MAX_BODY:
        raise AgentError(code, "the key provider's answer is too large")
    said = read_json(output.reveal(), _Output, code, "key provider's answer").keyunwrapresults.optsdata
    try:
        return Secret(standard_decode(said) if isinstance(said, str) else bytes(said))
    except ValueError:
        raise AgentError(code, "the key provider's answer: optsdata is neither bytes nor base64") from None


class Wrapper:
    """Wraps layer keys for a key of the broker, for holders of private keys, or both."""

    def __init__(self, kek: Secret | None, kid: str, recipients: Sequence[PublicKey]) -> None:
        """Keep the recipients.

        Args:
            kek: key encryption key, 32 raw bytes; None for no key provider.
            kid: its resource URI.
            recipients: public keys for JWE.
        """
        self._kek = kek
        self._kid = kid
        self._recipients = recipients

    def annotations(self, private_options: Secret) -> dict[str, str]:
        """Annotations that carry the wrapped options.

        Raises:
            AgentError: INVALID_URI.
        """
        made = {}
        if self._recipients:
            made[JWE] = standard_encode(jwe.encrypt(private_options, self._recipients))
        if self._kek is not None:
            made[OURS] = standard_encode(wrap(private_options.reveal(), self._kek.reveal(), self._kid))
        return made
