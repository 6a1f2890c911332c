"""Runs inside a guest's network namespace and brings up what the guest waits for, one word at a time.

Words on standard input: ``network`` (the loopback interface), ``kbs`` (a development KBS on port 8080),
``rest URL`` (fetch it), ``count`` (attestations so far). Each is answered with one line.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys

from agent.devkit.kbs import DevKbs
from tests.integration.support import http

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
PORT = 8080


def bring_up(interface: str) -> None:
    """Without iproute2, which a test machine may lack (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), _IFF_UP))


async def obey(kbs: DevKbs, word: str, argument: str) -> str:
    if word == "network":
        bring_up("lo")
    elif word == "kbs":
        await kbs.start(port=PORT)
        kbs.put("default/key/1", b"late secret")
    elif word == "rest":
        return (await http(argument)).body.decode()
    elif word == "count":
        return str(kbs.counters["attest"])
    return "done"


async def main() -> None:
    kbs = DevKbs()
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, _, argument = line.strip().partition(" ")
        print(await obey(kbs, word, argument), flush=True)
    await kbs.stop()


if __name__ == "__main__":
    asyncio.run(main())
