"""A log handler that never makes a caller wait for a slow console.

A serial console, or a pipe nobody reads, would otherwise stop the event loop. Lines wait in a bounded queue
for one writing thread; what does not fit is counted and reported, never waited for.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from typing import Final

CAPACITY: Final = 1024
"""Lines that wait; at most about 8 MiB."""

BATCH: Final = 64 * 1024
"""Bytes from which lines that wait are written at once."""

PAUSE: Final = 0.005
"""Seconds the writer sleeps after a write: under load lines gather meanwhile, and the loop is left alone."""

_WAIT_WRITABLE_MS: Final = 1000


class StderrHandler(logging.Handler):
    """Writes one line per record to a file descriptor, from a thread of its own.

    Args:
        descriptor: where to write; it stays open.
        capacity: lines that may wait.
    """

    def __init__(self, descriptor: int = 2, capacity: int = CAPACITY) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.capacity = capacity
        self.dropped = 0
        self._reported = 0
        self._queue: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or count it as dropped."""
        # T-LOG-6: bounded, and no waiting: neither memory nor the event loop is at a reader's mercy.
        if self._queue.qsize() >= self.capacity:
            self.dropped += 1
            return
        try:
            line = self.format(record).encode("ascii", "backslashreplace")
        except Exception:  # noqa: BLE001 - logging must not break its caller; the loss is counted
            self.dropped += 1
            return
        self._queue.put(line + b"\n")
        # After a fork the parent's thread is gone, and is_alive() says so.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)
            self._thread.start()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count; the default would print the record's arguments."""
        del record
        self.dropped += 1

    def drain(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until all lines queued so far are written; says whether they are."""
        if self._thread is None or not self._thread.is_alive():
            return True
        written = threading.Event()
        self._queue.put(written)
        self._hurry.set()
        return written.wait(timeout)

    def flush(self) -> None:
        """Called by logging at exit: gives a slow reader one second."""
        self.drain(1.0)

    def close(self) -> None:
        """Let the writer finish, at most one second."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            self._queue.put(None)
            self._hurry.set()
            thread.join(1.0)
        super().close()

    def _write_all(self) -> None:
        item: bytes | threading.Event | None = b""
        while item is not None:
            item = self._write_batch(self._queue.get())
            if isinstance(item, threading.Event):
                item.set()
            elif item is not None:
                self._hurry.wait(PAUSE)
            self._hurry.clear()

    def _write_batch(self, item: bytes | threading.Event | None) -> bytes | threading.Event | None:
        """Write the lines that wait, ``item`` first; what ended them: an event, None, or the last line."""
        lines, size = [], 0
        while isinstance(item, bytes):
            lines.append(item)
            size += len(item)
            if size >= BATCH:
                break
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        self._write(b"".join(lines))
        missing = self.dropped - self._reported
        if missing:
            self._reported += missing
            self._write(self._overflow(missing))
        return item

    def _overflow(self, missing: int) -> bytes:
        record = logging.LogRecord(
            "coco.log", logging.WARNING, __file__, 0, "log lines were dropped", None, None
        )
        record.count = missing
        return self.format(record).encode("ascii", "backslashreplace") + b"\n"

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self.descriptor, line) :]
            except BlockingIOError:
                waiter = select.poll()
                waiter.register(self.descriptor, select.POLLOUT)
                waiter.poll(_WAIT_WRITABLE_MS)
            except OSError:
                lost = line.count(b"\n")  # nobody reads any more: there is nowhere to say so
                self.dropped += lost
                self._reported += lost
                return
