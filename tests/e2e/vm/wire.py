"""What host and guest say to each other over two virtio ports: one JSON line each."""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

import msgspec

T = TypeVar("T")

SILENCE: Final = -1
"""As an ``Answer.error``: the hardware says nothing at all."""


class Port(Protocol):
    """A byte stream in both directions."""

    def readline(self) -> bytes:
        """The next line, with its end; shorter at the end of the port."""

    def write(self, data: bytes, /) -> int:
        """Queue bytes."""

    def flush(self) -> None:
        """Send them."""


class Ask(msgspec.Struct):
    """The guest's drivers ask the hardware.

    Attributes:
        kind: ``report`` (configfs-tsm), ``sev`` (an ioctl of /dev/sev-guest), ``tdreport``, ``mr-read``,
            ``mr-extend``, ``qgs`` (a message to the quote generation service).
        provider: the TEE, in configfs-tsm's words.
        number: privilege level, register, or certificate pages offered (-1: not asked for).
        data: input.
    """

    kind: str
    provider: str = ""
    number: int = 0
    data: bytes = b""


class Answer(msgspec.Struct):
    """The hardware's answer.

    Attributes:
        error: 0 or a positive errno, or ``SILENCE``.
        blobs: outblob, auxblob, manifestblob; or what ``kind`` says.
        info: exitinfo2 of /dev/sev-guest.
        pages: certificate pages needed.
    """

    error: int = 0
    blobs: list[bytes] = msgspec.field(default_factory=list)
    info: int = 0
    pages: int = 0


class Call(msgspec.Struct):
    """The test asks the guest to do something (``tests.e2e.vm.guest.main``)."""

    op: str
    name: str = ""
    settings: dict[str, str | int | bool] = msgspec.field(default_factory=dict)
    data: bytes = b""
    number: int = 0
    seconds: float = 30.0


class Result(msgspec.Struct):
    """What came of it.

    Attributes:
        code: of the ``AgentError``, "" when there was none, ``crash`` for anything else.
        detail: of the error.
        data: output.
        lines: output, where it is text.
        seconds: how long the guest took.
    """

    code: str = ""
    detail: str = ""
    data: bytes = b""
    lines: list[str] = msgspec.field(default_factory=list)
    seconds: float = 0.0


def send(port: Port, message: msgspec.Struct) -> None:
    """Write one message."""
    port.write(msgspec.json.encode(message) + b"\n")
    port.flush()


def receive(port: Port, kind: type[T]) -> T:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    line = port.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other side is gone")
    return msgspec.json.decode(line, type=kind)
