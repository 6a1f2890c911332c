"""The short ways of the log: they may not change what is written, only what it costs."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from agent.observe.logs import _PLAIN, Formatter
from agent.observe.redact import ResourceNames
from agent.observe.stderr import BATCH, StderrHandler

HIDING = ResourceNames(False)


@given(st.from_regex(_PLAIN, fullmatch=True))
def test_what_skips_the_scrubber_would_pass_it_unchanged(text: str) -> None:
    assert HIDING.scrub(text) == text


@given(
    st.sampled_from(["eyJ", "EyJ", "kbs://", "sealed.", "Bearer ", "a/b/c", "-----BEGIN X-----"]), st.text()
)
def test_nothing_with_the_shape_of_a_secret_skips_it(start: str, rest: str) -> None:
    assert _PLAIN.fullmatch(start + rest) is None


@given(st.floats(0, 4e9))
def test_the_timestamp_is_the_clock_s_in_milliseconds(seconds: float) -> None:
    record = logging.LogRecord("coco.test", logging.INFO, "", 0, "x", None, None)
    record.created = seconds
    written = json.loads(Formatter(HIDING).format(record))["ts"]
    moment = datetime.fromtimestamp(seconds, UTC)
    read = datetime.fromisoformat(written)
    assert abs((moment - read).total_seconds()) < 0.00101
    assert written.endswith("Z")


def test_batches_keep_every_line_and_their_order() -> None:
    reading, writing = os.pipe()
    received = bytearray()

    def read() -> None:
        while chunk := os.read(reading, 4096):
            received.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    handler = StderrHandler(writing, capacity=5000)
    handler.setFormatter(logging.Formatter("%(message)s"))
    lines = [f"{number:05} {'x' * 60}" for number in range(2 * BATCH // 66)]  # more than one batch
    for line in lines:
        handler.emit(logging.LogRecord("coco.test", logging.INFO, "", 0, line, None, None))
    assert handler.drain(5.0)
    handler.close()
    os.close(writing)
    reader.join()
    os.close(reading)
    assert received.decode().split("\n") == [*lines, ""]
    assert handler.dropped == 0
