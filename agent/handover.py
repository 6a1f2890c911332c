"""How a launcher hands its role to the daemon that runs already: the wire format, and nothing heavy.

A launcher that hands over must cost next to nothing, so this module and ``agent/cli/launch.py`` import no
more than ``errno``, ``os`` and ``socket``; not even ``typing``. One connection per launcher, to a
``SOCK_SEQPACKET`` socket with mode 0600. A message is a list of byte strings, separated by NUL, which neither
arguments nor variables can hold:

=============================  ==========================================================
``open``, see :class:`Wanted`   launcher: open this role with my arguments
``bind``, host, port, backlog   daemon: make the listening sockets, in your own network namespace
``bound``                       launcher: here they are (``SCM_RIGHTS``), one or two: :func:`listen_tcp`
``unbound``, errno              launcher: I cannot, and end
``opening``                     daemon: it is mine from here on; wait, however long it takes
``done``                        daemon: the role is open for as long as you keep the connection
``alone``, reason               daemon: not with me; run your role yourself
``fail``, status, text          daemon: print this and exit
``end``                         daemon: it is over, in good order
=============================  ==========================================================
"""

from __future__ import annotations

import errno
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

LOCALHOST = ("127.0.0.1", "::1")
"""What ``localhost`` means; which one a program asks first is its own affair."""

FREE_PORT_TRIES = 16
"""Ports that are free at one address of ``localhost`` are mostly free at the other."""

_NO_SUCH_ADDRESS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""IPv6 is not in the kernel, or switched off on this interface."""

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


def listen_tcp(host: str, port: int, backlog: int, tries: int = FREE_PORT_TRIES) -> list[socket.socket]:
    """Bind and listen; at an address that ``localhost`` means, on the other one too where there is one.

    Args:
        host: a literal IP address; ``::`` serves IPv4 as well.
        port: 0 takes one that is free.
        backlog: connections that the kernel holds, for each socket.
        tries: how many free ports to look at.

    Returns:
        The socket that was asked for, and perhaps its twin at the same port (:func:`unheld`).

    Raises:
        OSError: an address cannot be bound; ``filename`` is ``address:port``.
    """
    asked = _listen(host, port, backlog)
    try:
        return [asked, *listen_twins([asked], backlog)]
    except OSError as error:
        asked.close()
        if port or tries == 1 or error.errno != errno.EADDRINUSE:
            raise
    return listen_tcp(host, port, backlog, tries - 1)


def listen_twins(listeners: Sequence[socket.socket], backlog: int) -> list[socket.socket]:
    """Bind and listen where ``localhost`` also leads, see :func:`unheld`.

    Raises:
        OSError: as :func:`listen_tcp`; an address that this guest does not have is no error.
    """
    made: list[socket.socket] = []
    # T-REST-33: else anybody in the pod answers in our name to who asks the other address of localhost.
    for host, port in unheld(listeners):
        try:
            made.append(_listen(host, port, backlog))
        except OSError as error:
            if error.errno not in _NO_SUCH_ADDRESS:
                for listener in made:
                    listener.close()
                raise
    return made


def unheld(listeners: Sequence[socket.socket]) -> list[tuple[str, int]]:
    """Addresses and ports that ``localhost`` means as well, and that none of these sockets has."""
    held: dict[int, set[str]] = {}
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        held.setdefault(port, set()).update(_loopback(host, listener))
    return [(host, port) for port, hosts in held.items() if hosts for host in LOCALHOST if host not in hosts]


def refusal(error: OSError) -> str:
    """What to tell about an address that cannot be bound."""
    taken = "; 'ss -ltnp' shows the program that has it" if error.errno == errno.EADDRINUSE else ""
    return f"the REST address cannot be bound: {error.filename}: {error.strerror}{taken}"


def _loopback(host: str, listener: socket.socket) -> tuple[str, ...]:
    """Which addresses of ``localhost`` nobody else can bind while this socket listens."""
    if host == "::":
        only = listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return LOCALHOST[1:] if only else LOCALHOST
    own = LOCALHOST[0] if host == "0.0.0.0" else host  # noqa: S104
    return (own,) if own in LOCALHOST else ()


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    family, shown = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
    try:
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
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{shown}:{port}") from None
    return listener
