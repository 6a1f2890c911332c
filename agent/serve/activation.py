"""Listening sockets that systemd opened before it started us (sd_listen_fds(3)).

The socket units name each one (``FileDescriptorName=``) after the program of the field that serves it. REST
may have two, since ``localhost`` is two addresses; the others have one.
"""

from __future__ import annotations

import re
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from agent import handover
from agent.errors import AgentError, ErrorCode
from agent.serve.sockets import is_listening

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

FIRST: Final = 3
"""The first descriptor; the protocol fixes it."""

_UNIX: Final = frozenset({socket.AF_UNIX})
_FAMILIES: Final = {
    handover.ATTESTER: _UNIX,
    handover.HUB: _UNIX,
    handover.GATEWAY: frozenset({socket.AF_INET, socket.AF_INET6}),
}
_MOST: Final = sum(map(len, _FAMILIES.values()))
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_COUNT: Final = re.compile(r"[0-9]{1,4}", re.ASCII)


def take_listeners(
    environ: MutableMapping[str, str], pid: int, *, first: int = FIRST
) -> Mapping[str, Sequence[socket.socket]]:
    """The sockets that were passed to this process, by name; empty when none were.

    They listen, block nobody and are not inherited by children. Whoever gets them closes them, but must not
    remove their files: those are the manager's.

    Args:
        environ: e.g. ``os.environ``; the three variables are removed.
        pid: ours; descriptors that are meant for another process are not touched.
        first: number of the first descriptor; the protocol's, except in tests.

    Raises:
        AgentError: CONFIG_INVALID. Everything that was passed is closed.
    """
    # T-PROC-3: a child must not take our descriptors' numbers for its own.
    owner, count, names = (environ.pop(name, "") for name in _VARIABLES)
    if not count or owner != str(pid):
        return MappingProxyType({})
    # T-PROC-4: a number decides how many descriptors are taken over, so it is checked first.
    number = int(count) if _COUNT.fullmatch(count) else -1
    if not 0 <= number <= _MOST:
        raise _refused(f"LISTEN_FDS has to be a number up to {_MOST}: a socket for each role, two for REST")
    return _adopt(range(first, first + number), names.split(":") if names else [])


def _adopt(descriptors: range, names: list[str]) -> Mapping[str, Sequence[socket.socket]]:
    taken: dict[str, list[socket.socket]] = {}
    passed: list[socket.socket] = []
    try:
        passed.extend(_wrap(number) for number in descriptors)
        if len(names) != len(passed):
            raise _refused(f"{len(passed)} sockets and {len(names)} names: each needs FileDescriptorName=")
        for name, sock in zip(names, passed, strict=True):
            _check(name, sock)
            others = taken.setdefault(name, [])
            if any(other.family == sock.family for other in others):
                raise _refused(f"two sockets of {sock.family.name} are named {name}")
            others.append(sock)
    except AgentError:
        for sock in passed:
            sock.close()
        raise
    return MappingProxyType(taken)


def _wrap(number: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=number)
        sock.set_inheritable(False)
        sock.setblocking(False)  # noqa: FBT003
    except OSError:
        raise _refused(f"descriptor {number} is not a socket") from None
    return sock


def _check(name: str, sock: socket.socket) -> None:
    # T-PROC-5: what was passed is served to whoever connects, so it has to be what the name says.
    families = _FAMILIES.get(name)
    if families is None:
        known = ", ".join(_FAMILIES)
        raise _refused(f"a socket is named {name[:64]!a}; FileDescriptorName= is one of {known}")
    if not is_listening(sock):
        raise _refused(f"{name}: not a listening stream socket; use ListenStream= and Accept=no")
    if sock.family not in families:
        wanted = " or ".join(sorted(family.name for family in families))
        raise _refused(f"{name}: the socket's family has to be {wanted}")


def _refused(detail: str) -> AgentError:
    return AgentError(ErrorCode.CONFIG_INVALID, f"socket activation: {detail}")
