"""The machine's two virtio ports."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.e2e.vm import wire

PLATFORM_PORT: Final = "/dev/vport0p1"
TEST_PORT: Final = "/dev/vport0p2"


def open_port(path: str) -> wire.Port:
    """Open one; each can be opened once only."""
    port = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return io.BufferedRWPair(io.FileIO(port, "rb"), io.FileIO(port, "wb", closefd=False))
