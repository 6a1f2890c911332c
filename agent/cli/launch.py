"""``attestation-agent``, ``confidential-data-hub``, ``api-server-rest``, as kata-agent starts them.

The attester becomes the daemon. The other two ask it to open their role and stay in the foreground for as
long as it is open; where no daemon answers, they run their role alone. Until that is known nothing heavy is
imported (see ``agent/handover.py``).
"""

from __future__ import annotations

import array
import os
import socket
import sys

from agent import handover
from agent.cli import signals

TYPE_CHECKING = False  # typing itself takes 6 to 20 ms to import
if TYPE_CHECKING:
    from collections.abc import Sequence

_ABOUT_ITSELF = frozenset({"-h", "--help", "-V", "--version"})


def attestation_agent() -> int:
    """The attester role, and the daemon for the others."""
    return launch(handover.ATTESTER, sys.argv[1:])


def confidential_data_hub() -> int:
    """The hub role."""
    return launch(handover.HUB, sys.argv[1:])


def api_server_rest() -> int:
    """The gateway role."""
    return launch(handover.GATEWAY, sys.argv[1:])


def launch(program: str, arguments: Sequence[str]) -> int:
    """Hand the role to the daemon, or run it alone; the exit status."""
    _standard_files()
    if not _ABOUT_ITSELF.intersection(arguments):
        status = None if program == handover.ATTESTER else _hand_over(program, arguments)
        if status is not None:
            return status
        from agent import readahead  # noqa: PLC0415

        readahead.begin()
    return _alone(program, arguments)


def _standard_files() -> None:
    """Whoever started us may have closed 0 to 2: no socket of ours must get a number that others write to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _alone(program: str, arguments: Sequence[str]) -> int:
    from agent.cli.alone import run  # noqa: PLC0415  # everything a daemon needs

    return run(program, arguments)


def _hand_over(program: str, arguments: Sequence[str]) -> int | None:
    """The exit status, once the role is over; None when it has to be run here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        daemon.settimeout(handover.WAIT)
        try:
            daemon.connect(handover.PATH)
            _admit(daemon)
            daemon.sendall(handover.Wanted.of_this_process(program, arguments).encode())
            answer = _receive(daemon)
            if answer[:1] == [b"bind"]:
                answer = _bind(daemon, answer)
            if answer == [b"opening"]:
                # From here on the role is the daemon's alone; it hangs up if it cannot open it.
                daemon.settimeout(None)
                answer = _receive(daemon)
        except OSError:
            return None  # nobody there, or nobody in time
        match answer:
            case [b"done"]:
                return _stay(program, daemon)
            case [b"fail", status, text]:
                sys.stderr.write(os.fsdecode(text))
                return int(status)
            case _:
                return None


def _admit(daemon: socket.socket) -> None:
    # T-CTRL-4: arguments go to root or to ourselves, whoever made a socket at that name.
    peer = array.array("i", daemon.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if peer[1] not in {0, os.geteuid()}:
        raise PermissionError


def _receive(daemon: socket.socket) -> list[bytes]:
    return handover.decode(daemon.recv(handover.MESSAGE_MAX))


def _bind(daemon: socket.socket, answer: list[bytes]) -> list[bytes]:
    """Make the gateway's listening sockets here, where the pod's network is, and pass them."""
    host, port, backlog = (os.fsdecode(field) for field in answer[1:4])
    try:
        listeners = handover.listen_tcp(host, int(port), int(backlog))
    except OSError as error:
        daemon.sendall(handover.encode(b"unbound", str(error.errno)))
        return [b"fail", b"1", f"error: CONFIG_INVALID: {handover.refusal(error)}\n".encode()]
    try:
        rights = array.array("i", [listener.fileno() for listener in listeners])
        daemon.sendmsg([b"bound"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    finally:
        for listener in listeners:
            listener.close()
    return _receive(daemon)


def _stay(program: str, daemon: socket.socket) -> int:
    """Wait until the daemon ends the role, or a signal does."""
    try:
        signals.raise_stopped()
        daemon.settimeout(None)
        last = _last(daemon)
    except signals.Stopped:
        signals.ignore()
        # The daemon closes the role and then the connection: no socket is left behind when we are gone.
        daemon.settimeout(2 * handover.WAIT)
        daemon.shutdown(socket.SHUT_WR)
        _last(daemon)
        return 0
    if last == [b"end"]:
        return 0
    sys.stderr.write(f"error: {program}: the daemon that served this role is gone\n")
    return 1


def _last(daemon: socket.socket) -> list[bytes]:
    try:
        return _receive(daemon)
    except OSError:
        return []
