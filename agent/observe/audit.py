"""Who was handed what, or was refused: one line each, whatever the log level."""

from __future__ import annotations

import logging
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.observe.redact import ResourceNames

_log = logging.getLogger("coco.audit")


class Audit:
    """The audit log ``coco.audit`` (user_pains.md section 5).

    Args:
        names: shows or hides resource names.
    """

    def __init__(self, names: ResourceNames) -> None:
        self.names = names
        self._counts: Counter[tuple[str, str]] = Counter()

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """How often each pair of verb and result was recorded."""
        return MappingProxyType(self._counts)

    def record(
        self,
        *,
        api: str,
        peer: str,
        verb: str,
        resource: str | None,
        result: str,
        request_id: str,
        cache: str | None = None,
    ) -> None:
        """Write one line. No parameter takes the value that was handed out.

        Args:
            api: ``rest``, ``ttrpc`` or ``cli``.
            peer: the caller as the kernel reports it.
            verb: what was asked for, e.g. ``get_resource``.
            resource: what ``names`` made of the resource's name, or None where there is none.
            result: ``ok`` or the name of an error code.
            request_id: of the request, for finding its other lines.
            cache: ``hit``, ``miss`` or ``stale`` for a resource that was handed out.
        """
        self._counts[verb, result] += 1
        extra = {"api": api, "peer": peer, "verb": verb, "result": result, "request_id": request_id}
        if resource is not None:
            extra["resource"] = resource
        if cache is not None:
            extra["cache"] = cache
        # logging would look up the caller's file and line for each, which nobody prints.
        if _log.isEnabledFor(logging.INFO):
            _log.handle(_log.makeRecord(_log.name, logging.INFO, "", 0, "audit", (), None, extra=extra))
