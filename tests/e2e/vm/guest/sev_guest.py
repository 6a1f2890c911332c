"""``/dev/sev-guest`` as drivers/virt/coco/sev-guest has it, with the firmware asked elsewhere."""

from __future__ import annotations

import struct
import time
from errno import EINVAL, ENOTTY, ETIMEDOUT
from typing import TYPE_CHECKING, Final

from tests.e2e.vm.guest.cuse import Done, Ioctl, Need, Span
from tests.e2e.vm.wire import SILENCE, Answer, Ask

if TYPE_CHECKING:
    from collections.abc import Callable

GET_REPORT: Final = 0xC0205300
GET_EXT_REPORT: Final = 0xC0205302

_REQUEST: Final = 32
_REPORT_REQUEST: Final = 96
_EXT_REQUEST: Final = 112
_RESPONSE: Final = 4000
_PAGE: Final = 4096
_MOST_CERTIFICATES: Final = 0x4000
_NO_ANSWER: Final = 0xFF
_INVALID_LENGTH: Final = 1


def handler(ask: Callable[[Ask], Answer]) -> Callable[[Ioctl], Need | Done]:
    """The driver's ioctls, in three rounds: request, what it points to, and where the answer goes."""

    def answer(call: Ioctl) -> Need | Done:
        if call.command not in {GET_REPORT, GET_EXT_REPORT}:
            return Done(ENOTTY)
        head = Span(call.argument, _REQUEST)
        if not call.data:
            return Need([head])
        version, request, response, _ = struct.unpack_from("<B7xQQQ", call.data)
        if not version or not request or not response:
            return Done(EINVAL)
        body = Span(request, _REPORT_REQUEST if call.command == GET_REPORT else _EXT_REQUEST)
        if len(call.data) == _REQUEST:
            return Need([head, body])
        return _asked(ask, call, [head, body], Span(response, _RESPONSE))

    return answer


def _asked(ask: Callable[[Ask], Answer], call: Ioctl, read: list[Span], response: Span) -> Need | Done:
    certificates = _certificates(call.data[_REQUEST:])
    if certificates.size > _MOST_CERTIFICATES or certificates.size % _PAGE:
        return Done(EINVAL)
    if call.room:
        return _report(ask, call, certificates.size // _PAGE)
    head, body = read
    if call.command == GET_REPORT:
        return Need(read, [head, response])
    return Need(read, [head, response, body, *([certificates] if certificates.size else [])])


def _certificates(request: bytes) -> Span:
    if len(request) < _EXT_REQUEST:
        return Span(0, 0)
    address, size = struct.unpack_from("<QI", request, _REPORT_REQUEST)
    return Span(address, size) if address and size else Span(0, 0)


def _report(ask: Callable[[Ask], Answer], call: Ioctl, pages: int) -> Done:
    request = bytearray(call.data[_REQUEST:])
    extended = call.command == GET_EXT_REPORT
    got = ask(Ask("sev", number=pages if extended else -1, data=bytes(request[:_REPORT_REQUEST])))
    if got.error == SILENCE:
        # A driver that waits for the hypervisor waits for as long as that takes; no signal ends it.
        time.sleep(got.info)
        return Done(ETIMEDOUT)
    # The driver sets exitinfo2 before it asks; ENOTTY comes before it has asked (no key for this VMPL).
    info = _NO_ANSWER if got.error == ENOTTY else got.info
    head = bytearray(call.data[:_REQUEST])
    struct.pack_into("<Q", head, 24, info)
    if extended and info >> 32 == _INVALID_LENGTH:
        struct.pack_into("<I", request, _REPORT_REQUEST + 8, got.pages * _PAGE)
    response, table = (*got.blobs, b"", b"")[:2]
    written = bytes(head) + response.ljust(_RESPONSE, b"\0")
    if extended:
        written += bytes(request) + table.ljust(pages * _PAGE, b"\0")[: pages * _PAGE]
    return Done(got.error, written)
