"""The route table as data (cdh.md 1.2, 1.3)."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config.model import Features
from agent.errors import ErrorCode
from agent.serve.rest.answers import RestError
from agent.serve.rest.target import split_nth_slash

if TYPE_CHECKING:
    from collections.abc import Mapping


class Operation(enum.Enum):
    """What a route does."""

    INFO = "info"
    LIVE = "live"
    READY = "ready"
    METRICS = "metrics"
    TOKEN = "token"  # noqa: S105  # a name
    EVIDENCE = "evidence"
    ADDITIONAL_EVIDENCE = "additional-evidence"
    EXTEND = "extend"
    RESOURCE = "resource"
    UNSEAL = "unseal"


class Route(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        operation: what it does.
        methods: what it accepts; everything else is 405.
    """

    operation: Operation
    methods: tuple[str, ...] = ("GET",)


class Root(msgspec.Struct, frozen=True):
    """What lies below one first path segment.

    Attributes:
        features: settings under which it exists.
        disabled: body of the 404 under other settings, for any path below and any method.
        exact: routes by the whole rest of the path.
        below: routes by the rest's first segment; what follows it belongs to the route.
    """

    features: frozenset[Features]
    disabled: str
    exact: Mapping[str, Route]
    below: Mapping[str, Route]


class Match(msgspec.Struct, frozen=True):
    """A route and the raw rest of the path that belongs to it (starts with a slash, or is empty)."""

    route: Route
    rest: str = ""


# HEAD is not among the methods of /info and /aa: upstream refuses it there.
EXACT: Final[Mapping[str, Route]] = MappingProxyType(
    {
        "/info": Route(Operation.INFO),
        "/healthz": Route(Operation.LIVE),
        "/readyz": Route(Operation.READY),
        "/metrics": Route(Operation.METRICS),
    }
)

ROOTS: Final[Mapping[str, Root]] = MappingProxyType(
    {
        "/aa": Root(
            features=frozenset({Features.ATTESTATION, Features.ALL}),
            disabled="Attestation Feature Not Enabled",
            exact=MappingProxyType(
                {
                    "/token": Route(Operation.TOKEN),
                    "/evidence": Route(Operation.EVIDENCE),
                    "/additional-evidence": Route(Operation.ADDITIONAL_EVIDENCE),
                    "/aael": Route(Operation.EXTEND, methods=("POST",)),
                }
            ),
            below=MappingProxyType({}),
        ),
        "/cdh": Root(
            features=frozenset({Features.RESOURCE, Features.ALL}),
            disabled="Resource Feature Not Enabled",
            exact=MappingProxyType({"/unseal": Route(Operation.UNSEAL, methods=("POST",))}),
            below=MappingProxyType({"/resource": Route(Operation.RESOURCE, methods=("GET", "HEAD"))}),
        ),
    }
)


def find(path: str, method: str, features: Features) -> Match:
    """Find the route of a raw path.

    Args:
        path: undecoded, starts with a slash.
        method: as in the request line; case counts.
        features: which roots exist.

    Raises:
        RestError: UNKNOWN_ROUTE, FEATURE_DISABLED or METHOD_NOT_ALLOWED.
    """
    match = _locate(path, features)
    # T-REST-17: a fetch that changes nothing is all a resource route does; upstream takes any method.
    if method not in match.route.methods:
        raise RestError(
            ErrorCode.METHOD_NOT_ALLOWED,
            f"{match.route.operation.value} does not take this method",
            allow=match.route.methods,
        )
    return match


def _locate(path: str, features: Features) -> Match:
    route = EXACT.get(path)
    if route is not None:
        return Match(route)
    parts = split_nth_slash(path, 2)
    root = ROOTS.get(parts[0]) if parts is not None else None
    if parts is None or root is None:
        raise RestError(ErrorCode.UNKNOWN_ROUTE, "no such route")
    if features not in root.features:
        raise RestError(ErrorCode.FEATURE_DISABLED, root.disabled, text=root.disabled)
    route = root.exact.get(parts[1])
    if route is not None:
        return Match(route)
    below = split_nth_slash(parts[1], 2)
    route = root.below.get(below[0]) if below is not None else None
    if below is None or route is None:
        raise RestError(ErrorCode.UNKNOWN_ROUTE, "no such route")
    return Match(route, below[1])
