"""Logging that is safe to read for the host: one line per event, from an allow-list of fields.

``agent.*`` and ``coco.*`` are ours: their text is expanded, with arguments made harmless. Every other logger
is foreign: it stays at warning whatever the level, and only the first line of its template is written, never
its arguments, because they can be URLs with tokens, request objects or exception texts.
"""

from __future__ import annotations

import enum
import json
import logging
import math
import re
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError, ErrorCode
from agent.observe.redact import ResourceNames, locations, safe_argument
from agent.observe.stderr import StderrHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from agent.config.model import Observe

__all__ = ["AUDIT", "FIELDS", "TRACE", "Formatter", "Logs", "ResourceNames", "parse_level", "setup"]

AUDIT: Final = "coco.audit"
TRACE: Final = 5
OFF: Final = logging.CRITICAL + 10
_LEVELS: Final = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "off": OFF,
}
_LEVEL_NAMES: Final = {TRACE: "trace", 10: "debug", 20: "info", 30: "warn", 40: "error", 50: "error"}
_OURS: Final = ("agent", "coco")
_MAX_TEXT: Final = 1024
_MAX_ITEMS: Final = 32

# T-LOG-7: a record may carry anything; only these leave. Nothing here is a name of a resource or an address
# of a broker; ``resource`` holds what ResourceNames.show() made of it.
FIELDS: Final = frozenset(
    {
        "address",
        "algorithm",
        "api",
        "attempt",
        "attempts",
        "cache",
        "code",
        "content_type",
        "count",
        "detail",
        "devices",
        "endpoint",
        "error",
        "event",
        "expires_in",
        "file",
        "hint",
        "gid",
        "key",
        "limit",
        "method",
        "origin",
        "peer",
        "phase",
        "pid",
        "problem",
        "reason",
        "reasons",
        "request_id",
        "resource",
        "result",
        "retry",
        "retry_in",
        "role",
        "route",
        "seconds",
        "signal",
        "size",
        "socket",
        "status",
        "store",
        "stream",
        "tee",
        "uid",
        "verb",
        "version",
        "waiting",
        "where",
    }
)
_HINTS: Final = frozenset(code.meaning.hint for code in ErrorCode)
_FIRST: Final = ("event", "message", "code", "request_id")

_PLAIN: Final = re.compile(r"[A-DF-Za-df-z_][A-Za-z0-9_]{0,63}|#?[0-9a-f]{1,64}|[0-9.:]{1,64}", re.ASCII)
"""Words, digests and addresses in which no pattern of ResourceNames.scrub() can find anything: no slash,
blank, hyphen or equals sign, and no JWT, which begins with ``eyJ``."""

_ORDERS_MAX: Final = 256
_ENCODE: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


class Formatter(logging.Formatter):
    """One ASCII line per record, as JSON or as text.

    Args:
        names: decides about names and addresses.
        style: ``json`` or ``text``.
    """

    def __init__(self, names: ResourceNames, style: str = "json") -> None:
        super().__init__()
        self._names = names
        self._json = style != "text"
        self._orders: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line without its line end."""
        fields: dict[str, object] = {
            "ts": self._timestamp(record.created),
            "level": _LEVEL_NAMES.get(record.levelno, "info"),
            "logger": self._text(record.name, 100),
        }
        own = record.name.split(".", 1)[0] in _OURS
        fields.update(self._fields(record) if own else {"event": self._foreign(record)})
        self._exception(record, fields)
        if self._json:
            # ASCII only: no line separator, direction mark or terminal control of any kind gets out.
            return _ENCODE(fields).replace("\x7f", "\\u007f")
        return _as_text(fields)

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        given = {name: value for name, value in vars(record).items() if name in FIELDS}
        given["message" if "event" in given else "event"] = _expanded(record)
        return {name: self._value(given[name]) for name in self._order(tuple(given))}

    def _order(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """The fields of one kind of line in the order they are written; there are few kinds."""
        order = self._orders.get(given)
        if order is None:
            order = (*(name for name in _FIRST if name in given), *sorted(set(given) - set(_FIRST)))
            if len(self._orders) < _ORDERS_MAX:
                self._orders[given] = order
        return order

    def _value(self, value: object) -> object:
        if isinstance(value, str) and (_PLAIN.fullmatch(value) or value in _HINTS):
            return value  # hints are our own words, with example URIs in them
        if value is None or isinstance(value, bool | float):
            return value if value is None or math.isfinite(value) else str(value)  # JSON has no infinity
        if isinstance(value, enum.Enum):
            return value.name
        if isinstance(value, int):
            return int(value)
        if isinstance(value, list | tuple | set | frozenset):
            return [
                self._value(item) for item in list(value)[:_MAX_ITEMS] if not isinstance(item, list | tuple)
            ]
        return self._text(str(safe_argument(value)))

    def _text(self, text: str, limit: int = _MAX_TEXT) -> str:
        if _PLAIN.fullmatch(text):
            return text
        clean = self._names.scrub(text)
        return clean if len(clean) <= limit else clean[:limit] + "..."

    def _timestamp(self, seconds: float) -> str:
        whole = int(seconds)
        known, text = self._second
        if known != whole:
            text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (whole, text)
        return f"{text}.{min(999999, round((seconds - whole) * 1e6)) // 1000:03}Z"

    def _foreign(self, record: logging.LogRecord) -> str:
        # T-LOG-8: the template is the library's own text; its arguments can be ours or the caller's.
        template = str(record.msg).split("\n", 1)[0]
        words = (word if not re.search(r"[/=@?&]", word) else "~" for word in template.split())
        return self._text(" ".join(words), 256)

    @staticmethod
    def _exception(record: logging.LogRecord, fields: dict[str, object]) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return
        fields.setdefault("error", type(error).__name__)
        fields.setdefault("where", locations(error))
        if isinstance(error, AgentError):
            fields.setdefault("code", error.code.name)


class _Named(dict[str, object]):
    """Named arguments. logging passes a lone dictionary like that too, and ``%s`` must not print it."""

    def __repr__(self) -> str:
        return "<dict>"


def _expanded(record: logging.LogRecord) -> str:
    arguments = record.args
    try:
        if isinstance(arguments, tuple):
            return (
                str(record.msg) % tuple(safe_argument(item) for item in arguments)
                if arguments
                else str(record.msg)
            )
        if arguments:
            return str(record.msg) % _Named({name: safe_argument(item) for name, item in arguments.items()})
    except (TypeError, ValueError, KeyError):
        pass  # a wrong template: it is still worth a line
    return str(record.msg)


def _as_text(fields: dict[str, object]) -> str:
    head = f"{fields.pop('ts')} {str(fields.pop('level')).upper():5} {fields.pop('logger')}"
    event = fields.pop("event", "")
    tail = (f"{name}={_quoted(value)}" for name, value in fields.items())
    return " ".join([head, _escaped(str(event)), *tail])


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True).replace("\x7f", "\\u007f")
    return text[1:-1] if re.fullmatch(r'"[A-Za-z0-9_.:#*/-]+"', text) else text


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)[1:-1].replace("\x7f", "\\u007f").replace('\\"', '"')


def parse_level(text: str) -> int:
    """A level for :mod:`logging` from a word of ours or a ``RUST_LOG`` filter.

    Args:
        text: ``trace``, ``debug``, ``info``, ``warn``, ``error`` or ``off`` in any case, or directives
            such as ``info,kbs=debug``. A bare word wins; without one, the most talkative directive does.

    Raises:
        AgentError: CONFIG_INVALID.
    """
    bare: list[int] = []
    aimed: list[int] = []
    for directive in text.strip().lower().split(","):
        target, equals, word = directive.strip().rpartition("=")
        level = _LEVELS.get(word)
        if level is None or (equals and not target):
            raise AgentError(
                ErrorCode.CONFIG_INVALID, "the log level is none of trace, debug, info, warn, error, off"
            )
        (aimed if equals else bare).append(level)
    return bare[-1] if bare else min(aimed)


class Logs:
    """Logging as it is set up for this process.

    Attributes:
        names: shows or hides resource names.
        handler: the one handler.
    """

    def __init__(self, observe: Observe, descriptor: int = 2) -> None:
        self.names = ResourceNames(observe.log_resource_names)
        self.handler = StderrHandler(descriptor)
        self.handler.setFormatter(Formatter(self.names, observe.log_format))
        self._hooks: tuple[Callable[..., object], Callable[..., object], Callable[..., object]] | None = None

    def set_level(self, text: str) -> None:
        """Change the level while running; the audit log is not affected.

        Raises:
            AgentError: CONFIG_INVALID.
        """
        level = parse_level(text)
        for name in _OURS:
            logging.getLogger(name).setLevel(level)
        # Foreign loggers speak at warning and above at every level: their text is not ours to judge.
        logging.getLogger().setLevel(max(level, logging.WARNING))
        for name in _foreign_loggers():
            logging.getLogger(name).setLevel(max(level, logging.WARNING))
        # The audit log is not a matter of taste: it stays on at every level, "off" included.
        logging.getLogger(AUDIT).setLevel(logging.INFO)

    def attach(self) -> None:
        """Make this the only place where this process's log goes."""
        root = logging.getLogger()
        for handler in list(root.handlers):
            if isinstance(handler, StderrHandler):
                root.removeHandler(handler)
                handler.close()
        root.addHandler(self.handler)
        self._hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
        sys.excepthook = _on_crash
        threading.excepthook = lambda crash: _on_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)
        sys.unraisablehook = lambda crash: _on_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)

    def close(self) -> None:
        """Write what waits (at most a second), then detach."""
        if self._hooks is not None:
            sys.excepthook, threading.excepthook, sys.unraisablehook = self._hooks
            self._hooks = None
        logging.getLogger().removeHandler(self.handler)
        self.handler.drain(1.0)
        self.handler.close()


def _foreign_loggers() -> Iterable[str]:
    return ("asyncio", "concurrent")


def _on_crash(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    # T-LOG-1: Python's own report prints the exception's text; this one prints where it happened.
    del trace
    if issubclass(kind, SystemExit | KeyboardInterrupt):
        return
    logging.getLogger("coco.crash").error(
        "crash: defect in the agent",
        extra={
            "code": ErrorCode.INTERNAL.name,
            "error": kind.__name__,
            "where": locations(error) if error is not None else "",
        },
    )


def setup(observe: Observe, descriptor: int = 2) -> Logs:
    """Set up logging for this process; call it once, after any fork, and again to replace it.

    Args:
        observe: level, format and whether names show.
        descriptor: file descriptor of the log.

    Raises:
        AgentError: CONFIG_INVALID, unknown level.
    """
    logging.addLevelName(TRACE, "TRACE")
    logs = Logs(observe, descriptor)
    logs.set_level(observe.log_level)
    logs.attach()
    return logs
