"""What unmeasured places may still say where measured configuration has spoken (T-CONF-42).

The command line, the environment, the kernel command line and init-data that no hardware vouches for are not
measured. Where files or bound init-data are silent, upstream's value from there is used, and shown with its
origin. Where they speak, it may only narrow what they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import pem
from agent.config.model import Features, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNMEASURED: Final = frozenset({Source.COMMAND_LINE, Source.ENVIRONMENT, Source.KERNEL, Source.UNBOUND})
"""Places that somebody else than the author of the measured configuration may have written."""


class Rule(msgspec.Struct, frozen=True):
    """What narrow means for one field.

    Attributes:
        words: for the reference.
        fits: whether an unmeasured value, the second one, stays within the measured one.
    """

    words: str
    fits: Callable[[object, object], bool]


_ROUTES: Final = {
    Features.RESOURCE: frozenset({"resource"}),
    Features.ATTESTATION: frozenset({"attestation"}),
    Features.ALL: frozenset({"resource", "attestation"}),
}


def _equal(measured: object, other: object) -> bool:
    return measured == other


def _same_roots(measured: object, other: object) -> bool:
    return frozenset(_ders(measured)) == frozenset(_ders(other))


def _ders(roots: object) -> tuple[bytes, ...]:
    return pem.certificates(str(roots)) if roots else ()


def _fewer_routes(measured: object, other: object) -> bool:
    return (
        isinstance(measured, Features) and isinstance(other, Features) and _ROUTES[other] <= _ROUTES[measured]
    )


def _subset(measured: object, other: object) -> bool:
    return isinstance(measured, tuple) and isinstance(other, tuple) and set(other) <= set(measured)


def _any(_measured: object, _other: object) -> bool:
    return True


EQUAL: Final = Rule("equal", _equal)
ROOTS: Final = Rule("the same certificates", _same_roots)
ROUTES: Final = Rule("fewer routes", _fewer_routes)
SUBSET: Final = Rule("entries that are listed", _subset)
ANY: Final = Rule("any: it decides neither whom to trust nor what is released", _any)

RULES: Final[Mapping[str, Rule]] = {
    "attester.eventlog_dir": EQUAL,
    "attester.kbs.url": EQUAL,
    "attester.socket": EQUAL,
    "attester.sysroot": EQUAL,
    "gateway.aa_address": EQUAL,
    "gateway.bind": EQUAL,
    "gateway.cdh_address": EQUAL,
    "gateway.features": ROUTES,
    "hub.aa_socket": EQUAL,
    "hub.credentials": SUBSET,
    "hub.kbc": EQUAL,
    "hub.kbs.extra_roots": ROOTS,
    "hub.kbs.url": EQUAL,
    "hub.offline_stores": SUBSET,
    "observe.log_level": ANY,
}
"""Fields of the model that unmeasured places can set; of all others only unbound init-data can, by EQUAL."""


def rule(field: str) -> Rule:
    """What narrow means for a field."""
    return RULES.get(field, EQUAL)
