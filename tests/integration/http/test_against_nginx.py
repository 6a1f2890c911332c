"""Our reader takes no request that nginx refuses, and finds the same ones where both take them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.framing import feeding, nginx, recorded, request_cases
from tests.framing.compare import changed, complaint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.framing.feeding import Message

pytestmark = [
    pytest.mark.integration,
    # In CI nothing is skipped: what is missing there fails.
    pytest.mark.skipif(
        "CI" not in os.environ and nginx.PROGRAM is None,
        reason="nginx is missing: apt-get install nginx-light",
    ),
]

_HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?")
_PATH: Final = re.compile(r"/[A-Za-z0-9/?&=_.:,*-]*")
_DOTS: Final = re.compile(r"/\.|//")


def meant(message: Message) -> bool:
    """Where nginx may differ: it judges in its reader what we judge above ours, and one method is not for it.

    * Host: :mod:`agent.serve.rest.guard`.
    * What a path means (escapes, dots, absolute form): :mod:`agent.serve.rest.target`.
    * TRACE and CONNECT: it knows no such resource, and neither do we.
    * Two lines of Expect, which make one list (RFC 9110 5.3) and change no framing.
    """
    method, _, target = message.start.partition(" ")
    hosts = message.headers.get("host", ())
    return (
        method in {"TRACE", "CONNECT"}
        or len(message.headers.get("expect", ())) > 1
        or len(hosts) != 1
        or not _HOST.fullmatch(hosts[0])
        or not _PATH.fullmatch(target)
        or _DOTS.search(target) is not None
    )


def apart(data: bytes) -> bool:
    """What is not compared.

    * A tab around a value is white space for RFC 9110 5.6.3 and for us, and not for nginx.
    * HTTP/0.9 has no head. nginx answers it; we refuse it where its head would end.
    """
    return re.search(rb": *\t|\t *\r\n|GET +[^ \r\n]* *\r?\n", data) is not None


async def test_the_corpus(tmp_path: Path) -> None:
    found = {}
    async with nginx.running(tmp_path) as other:
        for case in request_cases.CASES:
            if len(case.data) < feeding.BOUNDS.start and not apart(case.data):
                found[case.name] = complaint(
                    feeding.requests([case.data]), await other.requests(case.data), meant
                )
    assert len(found) > 250
    assert {name: each for name, each in found.items() if each} == {}


async def test_requests_changed_at_random(tmp_path: Path) -> None:
    pool = [case.data for case in request_cases.CASES if len(case.data) < 600]
    taken = 0
    async with nginx.running(tmp_path) as other:
        for data in changed(pool, seed=2):
            ours = feeding.requests([data])
            taken += any(not meant(message) for message in ours.messages)
            if not apart(data):
                assert complaint(ours, await other.requests(data), meant) is None, data
    assert taken > 500  # or there was little to compare


async def test_requests_of_real_programs(tmp_path: Path) -> None:
    async with nginx.running(tmp_path) as other:
        for each in recorded.requests():
            ours = feeding.requests([each.data])
            assert complaint(ours, await other.requests(each.data), meant) is None, each
