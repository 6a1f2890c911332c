"""What stands behind the drivers: carries their questions to the host, over one virtio port."""

from __future__ import annotations

import os
import socket
import struct
import threading
from errno import EIO
from typing import Final

from tests.e2e.vm import wire
from tests.e2e.vm.guest import cuse, other_devices, sev_guest
from tests.e2e.vm.wire import Answer, Ask

QGS_PORT: Final = 4050

_REQUEST: Final = struct.Struct("<IIII64s")
_REPLY: Final = struct.Struct("<IiIII")
_KINDS: Final = ("report", "tdreport", "mr-read", "mr-extend")


class Host:
    """The host, asked by one thread at a time."""

    def __init__(self, port: wire.Port) -> None:
        self._port = port
        self._lock = threading.Lock()

    def ask(self, question: Ask) -> Answer:
        """One question and its answer."""
        with self._lock:
            wire.send(self._port, question)
            return wire.receive(self._port, Answer)


def run(port: wire.Port, provider: str, ready: int) -> None:
    """Serve until killed.

    Args:
        port: to the host.
        provider: a key of :data:`SERVICES`.
        ready: descriptor that gets one byte when every device is there.
    """
    host = Host(port)
    there: list[threading.Event] = []
    for serve in SERVICES[provider]:
        there.append(threading.Event())
        threading.Thread(target=serve, args=(host, provider, there[-1]), daemon=True).start()
    for event in there:
        event.wait()
    os.write(ready, b"!")
    threading.Event().wait()


def _platform(host: Host, provider: str, ready: threading.Event) -> None:
    """Answer our kernel module (kernel/coco_tsm.c)."""
    device = os.open("/dev/coco_platform", os.O_RDWR | os.O_CLOEXEC)
    ready.set()
    while True:
        serial, kind, number, size, data = _REQUEST.unpack(os.read(device, _REQUEST.size))
        got = host.ask(Ask(_KINDS[kind], provider.split(maxsplit=1)[0], number, data[:size]))
        if got.error == wire.SILENCE:
            continue
        blobs = (*got.blobs, b"", b"", b"")[:3]
        reply = _REPLY.pack(serial, -got.error, *(len(blob) for blob in blobs)) + b"".join(blobs)
        try:
            os.write(device, reply)
        except OSError:  # a blob the kernel takes from nobody: the driver gets an error and not a wait
            os.write(device, _REPLY.pack(serial, -EIO, 0, 0, 0))


def _sev(host: Host, _provider: str, ready: threading.Event) -> None:
    cuse.serve("sev-guest", sev_guest.handler(host.ask), ready.set)


def _csv(host: Host, _provider: str, ready: threading.Event) -> None:
    cuse.serve("csv-guest", other_devices.csv(host.ask), ready.set)


def _uv(host: Host, _provider: str, ready: threading.Event) -> None:
    cuse.serve("uv", other_devices.uv(host.ask), ready.set)


def _nsm(host: Host, _provider: str, ready: threading.Event) -> None:
    cuse.serve("nsm", other_devices.nsm(host.ask), ready.set)


def _qgs(host: Host, _provider: str, ready: threading.Event) -> None:
    """A quote generation service on vsock: each message has its length in front (attesters.md 3.4)."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listening:
        listening.bind((socket.VMADDR_CID_ANY, QGS_PORT))
        listening.listen()
        ready.set()
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as stream:
                size = int.from_bytes(stream.read(4), "big")
                got = host.ask(Ask("qgs", data=stream.read(size)))
                if got.blobs:
                    connection.sendall(len(got.blobs[0]).to_bytes(4, "big") + got.blobs[0])


def _imds(host: Host, _provider: str, ready: threading.Event) -> None:
    from tests.e2e.vm.guest import imds  # noqa: PLC0415 - half a second of a guest that is not Azure's

    imds.serve(host.ask, ready.set)


SERVICES: Final = {
    "sev_guest": (_platform, _sev),
    "sev_guest without ioctls": (_platform,),
    "tdx_guest": (_platform, _qgs),
    "tdx_guest without registers": (_platform,),
    "arm_cca_guest": (_platform,),
    "azure": (_imds,),
    "others": (_csv, _uv, _nsm),
}
"""What runs behind each kind of machine's drivers."""
