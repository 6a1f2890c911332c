"""``/dev/csv-guest``, ``/dev/uv`` and ``/dev/nsm``: ioctls whose structures point to others.

Each handler says in rounds which memory of the caller it needs; the last round's answer comes from outside.
"""

from __future__ import annotations

import struct
from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING, Final

from tests.e2e.vm.guest.cuse import Done, Ioctl, Need, Span
from tests.e2e.vm.wire import Ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.vm.wire import Answer

    Asker = Callable[[Ask], Answer]
    Handler = Callable[[Ioctl], Need | Done]

CSV_REPORT: Final = 0xC0104401
CSV_REGISTERS: Final = 0xC0184402
UV_ATTEST: Final = 0xC0407501
NSM_RAW: Final = 0xC0200A00

_UV_ATTEST: Final = 0x138
_LARGEST: Final = 1 << 16


def csv(ask: Asker) -> Handler:
    """Hygon's driver: a buffer that is read and written, and the structure too (attesters.md 10)."""

    def answer(call: Ioctl) -> Need | Done:
        sizes = {CSV_REPORT: 16, CSV_REGISTERS: 24}
        if call.command not in sizes:
            return Done(ENOTTY)
        head = Span(call.argument, sizes[call.command])
        if not call.data:
            return Need([head])
        layout = "<QI" if call.command == CSV_REPORT else "<QQ"
        buffer = Span(*struct.unpack_from(layout, call.data))
        if not call.room:
            return Need([head, buffer], [head, buffer]) if buffer.size <= _LARGEST else Done(EINVAL)
        kind = "csv" if call.command == CSV_REPORT else "csv-registers"
        number = 0 if call.command == CSV_REPORT else int.from_bytes(call.data[16:18], "little")
        got = ask(Ask(kind, number=number, data=call.data[head.size :]))
        if got.error:
            return Done(got.error)
        fields = bytearray(call.data[: head.size])
        if call.command == CSV_REGISTERS:
            struct.pack_into("<I", fields, 20, got.info)
        return Done(0, bytes(fields) + got.blobs[0].ljust(buffer.size, b"\0"))

    return answer


def uv(ask: Asker) -> Handler:
    """The ultravisor device of s390: big-endian, and pointers behind a pointer (attesters.md 9)."""

    def answer(call: Ioctl) -> Need | Done:
        if call.command != UV_ATTEST:
            return Done(ENOTTY)
        head = Span(call.argument, 64)
        if not call.data:
            return Need([head])
        address, size = struct.unpack_from(">8xQI", call.data)
        if size != _UV_ATTEST:
            return Done(EINVAL)
        body = Span(address, size)
        if len(call.data) == head.size:
            return Need([head, body])
        at = head.size
        arcb, measurement, additional = struct.unpack_from(">QQQ", call.data, at)
        sizes = struct.unpack_from(">III", call.data, at + 0x128)
        if not call.room:
            write = [Span(measurement, sizes[1]), Span(additional, sizes[2])]
            return Need([head, body, Span(arcb, sizes[0])], [head, body, *write])
        return _attested(ask, call, sizes)

    return answer


def _attested(ask: Asker, call: Ioctl, sizes: tuple[int, ...]) -> Done:
    fields, attest = bytearray(call.data[:64]), bytearray(call.data[64 : 64 + _UV_ATTEST])
    user_data = bytes(attest[0x18:0x58])
    got = ask(Ask("uv", data=user_data + call.data[64 + _UV_ATTEST :]))
    struct.pack_into(">HH", fields, 4, got.info >> 16, got.info & 0xFFFF)
    measurement, additional, cuid = (*got.blobs, b"", b"", b"")[:3]
    attest[0x118:0x128] = cuid.ljust(16, b"\0")
    struct.pack_into(">I", attest, 0x130, len(additional))
    written = bytes(fields) + bytes(attest)
    return Done(0, written + measurement.ljust(sizes[1], b"\0") + additional.ljust(sizes[2], b"\0"))


def nsm(ask: Asker) -> Handler:
    """AWS Nitro's module: one message there, one back (Linux uapi/linux/nsm.h)."""

    def answer(call: Ioctl) -> Need | Done:
        if call.command != NSM_RAW:
            return Done(ENOTTY)
        head = Span(call.argument, 32)
        if not call.data:
            return Need([head])
        request, size, response, room = struct.unpack_from("<QQQQ", call.data)
        if not call.room:
            return Need([head, Span(request, size)], [head, Span(response, room)])
        got = ask(Ask("nsm", data=call.data[head.size :]))
        if got.error:
            return Done(got.error)
        fields = struct.pack("<QQQQ", request, size, response, len(got.blobs[0]))
        return Done(0, fields + got.blobs[0])

    return answer
