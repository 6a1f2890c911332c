"""Telling systemd that the daemon is up, alive or ending (sd_notify(3)): one datagram of lines each.

Nothing depends on it: without a manager that listens, every word goes nowhere. The watchdog's requests are
made by ``agent/serve/heartbeat.py``.
"""

from __future__ import annotations

import logging
import re
import socket
from typing import TYPE_CHECKING, Final, Self

from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_log = logging.getLogger(__name__)

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class Notifier:
    """Speaks to the service manager that started this process, if one did.

    Attributes:
        watchdog: seconds within which :meth:`alive` has to be called again and again; None: nobody waits.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """Open nothing yet.

        Args:
            address: absolute path, ``@abstract-name``, or empty: there is nobody to tell.
            watchdog: see the attribute.
        """
        self._target = f"\0{address[1:]}" if address.startswith("@") else address
        self._deaf = not address
        self.watchdog = watchdog

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int) -> Self:
        """Take what the manager said out of the environment.

        What cannot be understood is left out with a warning: no start depends on it.

        Args:
            environ: e.g. ``os.environ``; the three variables are removed.
            pid: ours. The watchdog is for whom ``WATCHDOG_PID`` names, or for anybody if it is not set.
        """
        # T-PROC-2: no child, such as the process of a vendor's library, may speak in our name.
        address, period, owner = (environ.pop(name, "") for name in _VARIABLES)
        if address and not _is_address(address):
            _log.warning("NOTIFY_SOCKET is not understood", extra={"reason": "no path and no @name"})
            address = ""
        if not address or owner not in {"", str(pid)}:
            return cls(address)
        return cls(address, _seconds(period))

    def ready(self, status: str = "") -> bool:
        """All sockets are open. ``status`` is shown by ``systemctl status``."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """What ``systemctl status`` shows; no names of resources or brokers."""
        return self._send(*_status(text))

    def alive(self) -> bool:
        """Every socket of ours has answered."""
        return self._send("WATCHDOG=1")

    def stopping(self) -> bool:
        """The end has begun."""
        return self._send("STOPPING=1")

    def _send(self, *lines: str) -> bool:
        """Whether the manager has it. A socket that is gone or full is no error of ours."""
        if self._deaf:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager that is busy for a moment is waited for; one that hangs does not hold us up.
                sender.settimeout(limits.NOTIFY_TIMEOUT)
                sender.sendto("\n".join(lines).encode(), self._target)
        except OSError as error:
            _log.warning("the service manager was not told", extra={"reason": type(error).__name__})
            return False
        return True


def _is_address(text: str) -> bool:
    long_enough = 1 < len(text.encode("utf-8", "surrogateescape")) <= limits.SOCKET_PATH_MAX + 1
    return text[0] in "/@" and "\0" not in text and long_enough


def _seconds(microseconds: str) -> float | None:
    if not microseconds:
        return None
    if not _NUMBER.fullmatch(microseconds) or not int(microseconds):
        _log.warning("WATCHDOG_USEC is not understood", extra={"reason": "not a number above 0"})
        return None
    return int(microseconds) / 1e6


def _status(text: str) -> tuple[str, ...]:
    # A line break would begin another assignment.
    return (f"STATUS={' '.join(text.split())}",) if text else ()
