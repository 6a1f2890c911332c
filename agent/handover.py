"""How a launcher hands its role to the daemon that runs already: the wire format, and nothing heavy.

A launcher that hands over must cost next to nothing, so this module and ``agent/cli/launch.py`` import no
more than ``os`` and ``socket``; not even ``typing``. One connection per launcher, to a ``SOCK_SEQPACKET``
socket with mode 0600. A message is a list of byte strings, separated by NUL, which neither arguments nor
variables can hold:

=============================  ==========================================================
``open``, see :class:`Wanted`   launcher: open this role with my arguments
``bind``, host, port, backlog   daemon: make the listening socket, in your own network namespace
``bound``                       launcher: here it is (``SCM_RIGHTS``)
``opening``                     daemon: it is mine from here on; wait, however long it takes
``done``                        daemon: the role is open for as long as you keep the connection
``alone``, reason               daemon: not with me; run your role yourself
``fail``, status, text          daemon: print this and exit
``end``                         daemon: it is over, in good order
=============================  ==========================================================
"""

from __future__ import annotations

import os
import socket

TYPE_CHECKING = False  # typing itself takes 6 to 20 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATH = "/run/confidential-containers/coco-agent/launchers.sock"
"""Fixed, because a launcher has read no configuration yet. Below /run, which only root can write."""

PROTOCOL = b"coco-launcher-1"

ATTESTER = "attestation-agent"
HUB = "confidential-data-hub"
GATEWAY = "api-server-rest"
"""Upstream's names of the programs, one for each role."""

MESSAGE_MAX = 64 * 1024
"""Bytes of a message: arguments and a few variables, one of which may hold certificates."""

WAIT = 5.0
"""Seconds a launcher waits for each answer. kata-agent gives it 6 until its socket must be there. A daemon
that is still loading answers late, and a launcher that gave up early would have to load all of it as well."""

ENVIRONMENT = (
    "AA_KBC_PARAMS",
    "AA_SOCKET",
    "KBS_CERT",
    "OFFLINE_FS_KBC_EXTRA_FILE_PATH",
    "RUST_LOG",
    "SKIP_SEALED_SECRET_VERIFICATION",
    "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS",
)
"""What of a launcher's environment configures its role (``agent/config/keys.py``)."""


class Wanted:
    """What a launcher wants opened.

    Attributes:
        program: its name, e.g. ``confidential-data-hub``.
        folder: its working directory, which its relative paths start from.
        network: device and inode of its network namespace.
        environ: the variables of :data:`ENVIRONMENT` that are set.
        arguments: its command line without the program.
    """

    def __init__(
        self, program: str, folder: str, network: str, environ: Mapping[str, str], arguments: Sequence[str]
    ) -> None:
        self.program = program
        self.folder = folder
        self.network = network
        self.environ = environ
        self.arguments = arguments

    @classmethod
    def of_this_process(cls, program: str, arguments: Sequence[str]) -> Wanted:
        """What this launcher was started with."""
        environ = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        try:
            folder = os.getcwd()  # noqa: PTH109
        except OSError:
            folder = "/nonexistent"  # it was removed; absolute paths work all the same
        return cls(program, folder, network_namespace(), environ, arguments)

    def encode(self) -> bytes:
        """The message ``open``."""
        head = (b"open", PROTOCOL, self.program, self.folder, self.network, str(len(self.environ)))
        return encode(*head, *(f"{name}={text}" for name, text in self.environ.items()), *self.arguments)

    @classmethod
    def decode(cls, fields: Sequence[bytes]) -> Wanted:
        """From a message.

        Raises:
            ValueError: not ``open``, or of another protocol.
        """
        verb, protocol, program, folder, network, count, *rest = fields
        if verb != b"open" or protocol != PROTOCOL:
            raise ValueError("another protocol")
        variables, arguments = rest[: int(count)], rest[int(count) :]
        environ = dict(os.fsdecode(variable).split("=", 1) for variable in variables)
        if len(variables) != int(count) or not environ.keys() <= set(ENVIRONMENT):
            raise ValueError("other variables")
        names = [os.fsdecode(field) for field in (program, folder, network)]
        return cls(names[0], names[1], names[2], environ, [os.fsdecode(field) for field in arguments])


def encode(*fields: bytes | str) -> bytes:
    """One message."""
    return b"\0".join(os.fsencode(field) for field in fields)


def decode(message: bytes) -> list[bytes]:
    """The fields of one message; an empty one, which is the end of the connection, has none."""
    return message.split(b"\0") if message else []


def network_namespace() -> str:
    """Device and inode of this process's network namespace; empty where /proc is missing."""
    try:
        status = os.stat("/proc/self/ns/net")  # noqa: PTH116
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def listen_tcp(host: str, port: int, backlog: int) -> socket.socket:
    """Bind and listen; ``::`` serves IPv4 as well.

    Args:
        host: a literal IP address.
        port: 0 takes a free one.
        backlog: connections that the kernel holds.

    Raises:
        OSError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
