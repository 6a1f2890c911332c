"""An image owner's keys: which one wraps a layer key, and that it is where guests will look for it.

Not for guests. Counterpart of upstream's ``coco_keyprovider`` (cdh.md 6.3).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import TYPE_CHECKING, Final, Protocol

from agent.config.uri import RESOURCE_PLUGIN, parse_uri
from agent.errors import AgentError, ErrorCode
from agent.hub.image_wrap import KEK_SIZE, build_wrap_output, parse_wrap_input, wrap
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline
    from agent.config.uri import ResourceUri
    from agent.hub.image_wrap import Parameters

KEYS_MAX: Final = 1024
"""Key ids one process uses; an owner has a handful."""

_SAMPLE_KEY: Final = "d99b7705b0ba7a168295b3a3367270b0dd9b371bf514ca8b9ba7f0a33711daea"
"""Upstream's published test key, hexadecimal (cdh.md A.4): anybody has it."""


class Registrar(Protocol):
    """Stores keys at a broker; :class:`agent.kbs.admin.ResourceWriter` is one."""

    async def put(self, uri: ResourceUri, value: Secret, deadline: Deadline) -> None:
        """Store; returns only when the broker said that it did."""


class ImageOwner:
    """Wraps layer keys with keys of the owner.

    Args:
        registrar: where keys are registered before they are used; None: the owner uploads them.
        read_key: the content of the file a request names, at most a few bytes more than a key has.
        allow_sample: accept ``sample=true``.
        lasting: this process answers for all layers of an image. One that answers a single request cannot
            make a random key: each layer would get another one under the same name.
    """

    def __init__(
        self,
        registrar: Registrar | None,
        read_key: Callable[[str], Secret],
        *,
        allow_sample: bool = False,
        lasting: bool = True,
    ) -> None:
        self._registrar = registrar
        self._read_key = read_key
        self._allow_sample = allow_sample
        self._lasting = lasting
        self._turn = asyncio.Lock()
        self._random: dict[str, Secret] = {}
        self._used: dict[str, bytes] = {}

    async def wrap_key(self, protocol_input: bytes, deadline: Deadline) -> tuple[bytes, Parameters]:
        """Answer one WrapKey request.

        Returns:
            Key provider JSON, and what was asked for.

        Raises:
            AgentError: PAYLOAD_TOO_LARGE, INVALID_REQUEST, INVALID_URI, SAMPLE_REFUSED, or why the key could
                not be registered. Nothing is wrapped then.
        """
        request = parse_wrap_input(protocol_input)
        parameters = request.parameters
        kek: Secret | None = None
        try:
            if parameters.sample:
                kek = self._sample_key()
            else:
                kek = await self._owned(parameters, deadline)
            return build_wrap_output(wrap(request, kek)), parameters
        finally:
            request.private_options.wipe()
            if kek is not None:
                kek.wipe()

    def close(self) -> None:
        """Wipe the random keys."""
        for key in self._random.values():
            key.wipe()
        self._random.clear()

    def _sample_key(self) -> Secret:
        # T-IMGKEY-45: anybody can open what the published key wraps.
        if not self._allow_sample:
            detail = "sample=true wraps with a published key; --allow-sample-key permits it"
            raise AgentError(ErrorCode.SAMPLE_REFUSED, detail)
        return Secret(bytes.fromhex(_SAMPLE_KEY))

    async def _owned(self, parameters: Parameters, deadline: Deadline) -> Secret:
        """The key for a request, registered; a copy that the caller wipes."""
        uri = parse_uri(parameters.kid)
        if self._registrar is not None and uri.plugin != RESOURCE_PLUGIN:
            raise _refused("a broker takes uploads of kbs:/// resources only")
        # Layers come at once, from several connections: one after the other, or each would make a key.
        async with deadline.backstop("registering the key"), self._turn:
            key = self._choose(parameters)
            digest = hashlib.sha256(key.reveal()).digest()
            self._check_name(parameters.kid, digest)
            # T-IMGKEY-46: registered before the packet is handed out, or nobody could decrypt the image.
            if self._registrar is not None:
                await self._registrar.put(uri, key, deadline)
            self._used[parameters.kid] = digest
            return key

    def _choose(self, parameters: Parameters) -> Secret:
        if parameters.keypath:
            key = self._read_key(parameters.keypath)
            if len(key) != KEK_SIZE:
                raise _refused(f"the key file has {len(key)} bytes, {KEK_SIZE} raw ones are needed")
            return key
        # T-IMGKEY-47: a random key that is kept nowhere makes an image that nobody can open.
        if self._registrar is None:
            raise _refused("a random key needs --kbs, where it is registered; or name a file with keypath=")
        if not self._lasting:
            raise _refused("--once cannot make a random key, each layer would get another; name a keypath=")
        if parameters.kid not in self._random:
            self._room(self._random)
            self._random[parameters.kid] = Secret(os.urandom(KEK_SIZE))
        return self._random[parameters.kid].copy()

    def _check_name(self, kid: str, digest: bytes) -> None:
        # T-IMGKEY-48: another key under a used name would make the layers before it unreadable.
        if self._used.get(kid, digest) != digest:
            raise _refused("another key was used under this keyid; choose a new keyid, or start again")
        if kid not in self._used:
            self._room(self._used)

    def _room(self, names: dict[str, Secret] | dict[str, bytes]) -> None:
        if len(names) >= KEYS_MAX:
            raise AgentError(ErrorCode.TOO_MANY_REQUESTS, f"more than {KEYS_MAX} key ids; start again")


def _refused(reason: str) -> AgentError:
    return AgentError(ErrorCode.INVALID_REQUEST, reason)
