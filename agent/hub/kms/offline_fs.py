"""``offline_fs_kbc``: resources from JSON files of the guest image (cdh.md 5.3)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from agent.config import limits
from agent.config.uri import parse_uri
from agent.errors import AgentError, ErrorCode
from agent.files import read_trusted
from agent.hub.encoding import read_json, standard_decode
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.clock import Deadline

log = logging.getLogger("coco.hub")


class OfflineFsGetter:
    """A :class:`~agent.hub.kms.base.Getter` over local stores, which are read again for each request."""

    def __init__(self, stores: Sequence[str]) -> None:
        """Name the stores.

        Args:
            stores: paths of JSON files; entries of later ones override those of earlier ones.
        """
        self._stores = tuple(stores)

    async def get(
        self,
        name: str,
        annotations: Mapping[str, object],  # noqa: ARG002  # the stores have no use for them
        deadline: Deadline,
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`.

        ``name`` is a resource URI of which only the path counts: plugin and query are ignored.

        Raises:
            AgentError: INVALID_URI, RESOURCE_NOT_FOUND, OFFLINE_STORE_INVALID, FILE_UNSAFE,
                DEADLINE_EXCEEDED.
        """
        path = parse_uri(name).path
        async with deadline.limit("reading the offline resource stores"):
            # A store may hold 16 MiB; decoding that would hold up everybody else.
            value = await asyncio.to_thread(self._find, path)
        if value is None:
            raise AgentError(ErrorCode.RESOURCE_NOT_FOUND, "none of the offline stores has this path")
        return Secret(value)

    def _find(self, path: str) -> bytes | None:
        found: bytes | None = None
        for store in self._stores:
            try:
                # T-FILE-30: the stores decide what a guest trusts, so no link and no foreign owner.
                content = read_trusted(store, limits.OFFLINE_STORE_MAX)
            except FileNotFoundError:
                log.debug("an offline store is missing", extra={"store": store})
                continue
            found = parse_store(content, store).get(path, found)
        return found


def parse_store(content: bytes, shown: str) -> dict[str, bytes]:
    """Read one store: a JSON object of resource path to standard base64.

    Every entry is checked, also those nobody asked for: a broken store is found at the first request.

    Args:
        content: at most ``limits.OFFLINE_STORE_MAX`` bytes.
        shown: the file's name, for the error.

    Raises:
        AgentError: OFFLINE_STORE_INVALID; the detail names the file and the entry's position.
    """
    code = ErrorCode.OFFLINE_STORE_INVALID
    entries = read_json(content, dict[str, str], code, shown)
    decoded = {}
    for position, (path, text) in enumerate(entries.items(), start=1):
        try:
            decoded[path] = standard_decode(text)
        except ValueError:
            raise AgentError(code, f"{shown}: entry {position} is not standard base64") from None
    return decoded
