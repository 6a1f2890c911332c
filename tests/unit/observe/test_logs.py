from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent.devkit.web  # noqa: F401  # it silences aiohttp's access log
from agent.config.model import Observe
from agent.errors import AgentError, ErrorCode
from agent.observe.audit import Audit
from agent.observe.logs import FIELDS, Formatter, ResourceNames, parse_level, setup
from agent.observe.stderr import StderrHandler
from agent.roles import MeasurementResult
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.observe.logs import Logs

LEVELS = ["trace", "debug", "info", "warn", "error", "off"]
ours = logging.getLogger("coco.test")


class Console:
    """The process's log, captured from its descriptor."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.logs: Logs | None = None

    def setup(self, **settings: Any) -> Console:
        self.logs = setup(Observe(**settings), self.descriptor)
        return self

    def text(self) -> str:
        assert self.logs is not None
        assert self.logs.handler.drain(5)
        with open(self.path, encoding="ascii") as file:  # noqa: PTH123
            return file.read()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def console(tmp_path: object) -> Iterator[Console]:
    made = Console(f"{tmp_path}/console")
    names = (None, "agent", "coco", "coco.audit", "asyncio", "aiohttp", "aiohttp.access")
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    yield made
    if made.logs is not None:
        made.logs.close()
    os.close(made.descriptor)
    for logger, level in before:
        logger.setLevel(level)


def formatted(style: str = "json", *, shown: bool = False, **record: Any) -> str:
    values = {
        "name": "coco.test",
        "levelno": 20,
        "levelname": "INFO",
        "msg": "event",
        "created": 0.0,
        **record,
    }
    return Formatter(ResourceNames(shown), style).format(logging.makeLogRecord(values))


# --- shape ----------------------------------------------------------------------------------------


def test_a_json_line_has_its_fields_in_order() -> None:
    line = formatted(
        created=1_790_000_000.1234,
        msg="handshake failed",
        code=ErrorCode.KBS_BUSY,
        request_id="ab",
        attempt=2,
    )
    assert line == (
        '{"ts":"2026-09-21T14:13:20.123Z","level":"info","logger":"coco.test","event":"handshake failed",'
        '"code":"KBS_BUSY","request_id":"ab","attempt":2}'
    )


def test_a_text_line_reads_well() -> None:
    line = formatted("text", msg="handshake failed", levelno=30, code="KBS_BUSY", detail='said "no"')
    assert (
        line
        == r'1970-01-01T00:00:00.000Z WARN  coco.test handshake failed code=KBS_BUSY detail="said \"no\""'
    )


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
def test_a_hint_is_written_as_it_is(code: ErrorCode) -> None:
    assert json.loads(formatted(hint=code.meaning.hint))["hint"] == code.meaning.hint


def test_an_event_name_keeps_its_sentence() -> None:
    line = json.loads(formatted(event="kbs.retry", msg="trying again in %d s", args=(3,)))
    assert (line["event"], line["message"]) == ("kbs.retry", "trying again in 3 s")


def test_only_listed_fields_leave() -> None:
    line = json.loads(formatted(token="c4n4ry", body=b"c4n4ry", path="/cdh/resource/x", code="OK"))
    assert set(line) == {"ts", "level", "logger", "event", "code"}
    assert (
        not {"token", "body", "path", "url", "uri", "value", "secret", "key_id", "headers", "cookie"} & FIELDS
    )


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Secret(b"c4n4ry"), "***"),
        (b"c4n4ry", "<6 bytes>"),
        (ValueError("c4n4ry"), "ValueError"),
        ({"a": "c4n4ry"}, "<dict>"),
        (MeasurementResult.NOT_ENABLED, "NOT_ENABLED"),
        (("a", Secret(b"c4n4ry")), ["a", "***"]),
        (float("inf"), "inf"),
        (True, True),
        (None, None),
        ("x" * 5000, "x" * 1024 + "..."),
    ],
)
def test_field_values_are_harmless(value: object, written: object) -> None:
    assert json.loads(formatted(detail=value))["detail"] == written


@settings(max_examples=200)
@given(
    st.sampled_from(["json", "text"]),
    st.text(max_size=60),
    st.one_of(st.text(max_size=60), st.integers(), st.floats(), st.binary(max_size=20), st.none()),
)
def test_any_record_is_one_line_of_plain_ascii(style: str, message: str, value: object) -> None:
    line = formatted(style, msg=message, detail=value, peer=message)
    assert all(" " <= character <= "~" for character in line)
    if style == "json":
        assert set(json.loads(line)) <= {"ts", "level", "logger", "event", "detail", "peer"}


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_caller_cannot_forge_a_line(style: str) -> None:
    line = formatted(
        style, msg="from %s", args=('x\n{"level":"error"}\r\x1b[2J\x7f\u2028\u202e\x85',), peer="\n\nERROR"
    )
    assert line.isascii()
    assert line.isprintable()


def test_a_wrong_template_still_makes_a_line_without_its_arguments() -> None:
    assert json.loads(formatted(msg="got %d of %s", args=("c4n4ry",)))["event"] == "got %d of %s"
    assert json.loads(formatted(msg="%(a)s", args={"a": b"xy"}))["event"] == "<2 bytes>"


def test_an_exception_shows_its_kind_and_place_only(console: Console) -> None:
    console.setup()
    try:
        raise ValueError("c4n4ry")
    except ValueError:
        ours.exception("broken")
    try:
        raise AgentError(ErrorCode.JWE_INVALID, "tag")
    except AgentError:
        ours.exception("refused")
    first, second = console.lines()
    assert first["error"] == "ValueError"
    assert "test_logs.py" in first["where"]
    assert second["code"] == "JWE_INVALID"
    assert "c4n4ry" not in console.text()


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "count"), [("trace", 5), ("debug", 4), ("info", 3), ("warn", 2), ("error", 1), ("off", 0)]
)
def test_levels(console: Console, level: str, count: int) -> None:
    console.setup(log_level=level)
    for number in (5, 10, 20, 30, 40):
        ours.log(number, "line")
        logging.getLogger("agent.kbs.client").log(number, "line")
    assert len(console.lines()) == 2 * count


@pytest.mark.parametrize("level", LEVELS)
def test_the_audit_log_is_always_on(console: Console, level: str) -> None:
    console.setup(log_level=level)
    audit = Audit(ResourceNames(shown=False))
    audit.record(api="rest", peer="p", verb="get_resource", resource="#1", result="ok", request_id="ab")
    audit.record(api="rest", peer="p", verb="token", resource=None, result="NO_TEE", request_id="cd")
    first, second = console.lines()
    assert first == first | {"logger": "coco.audit", "verb": "get_resource", "resource": "#1", "result": "ok"}
    assert "resource" not in second
    assert audit.counts == {("get_resource", "ok"): 1, ("token", "NO_TEE"): 1}


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("INFO", 20),
        ("Warning", 30),
        ("off", 60),
        ("warn,attestation_service=info", 30),
        ("kbs=debug,info", 20),
        ("kbs=warn,aa=trace", 5),
        (" debug ", 10),
    ],
)
def test_words_of_rust_log_are_understood(text: str, level: int) -> None:
    assert parse_level(text) == level


@pytest.mark.parametrize("text", ["", "loud", "info,,warn", "=info", "a=", "info;debug", "c4n4ry"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(AgentError) as caught:
        parse_level(text)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert "c4n4ry" not in caught.value.detail


@settings(max_examples=100)
@given(st.text(max_size=30))
def test_any_level_text_is_a_level_or_the_declared_error(text: str) -> None:
    with contextlib.suppress(AgentError):
        assert parse_level(text) in {5, 10, 20, 30, 40, 60}


def test_the_level_can_change_while_running(console: Console) -> None:
    console.setup(log_level="error")
    ours.info("quiet")
    assert console.logs is not None
    console.logs.set_level("info")
    ours.info("heard")
    assert [line["event"] for line in console.lines()] == ["heard"]


# --- what others log ------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_foreign_loggers_never_show_their_arguments(console: Console, level: str) -> None:
    console.setup(log_level=level, log_resource_names=True)
    url = "http://kbs/kbs/v0/resource/default/key/1?token=c4n4ry"
    for name in ("aiohttp", "aiohttp.client", "aiohttp.server", "aiohttp.web", "asyncio", "somebody"):
        logger = logging.getLogger(name)
        for number in (10, 20, 30, 40):
            logger.log(number, "cannot fetch %s", url)
            logger.log(number, f"cannot fetch {url} /cdh/resource/default/key/1 key=c4n4ry")  # noqa: G004
            logger.log(number, "first line\n%s", url)
    logging.getLogger("aiohttp.access").error('"GET /cdh/resource/default/key/1" 200')
    text = console.text()
    assert "c4n4ry" not in text
    assert "default" not in text
    assert "first line" in text or level == "off"


async def test_an_abandoned_task_does_not_show_what_it_failed_on(console: Console) -> None:
    console.setup(log_level="trace")

    async def work() -> None:
        raise ValueError("c4n4ry")

    task = asyncio.create_task(work())
    await asyncio.wait([task])
    del task
    gc.collect()
    (line,) = console.lines()
    assert line["logger"] == "asyncio"
    assert line["error"] == "ValueError"
    assert "never retrieved" in line["event"]
    assert "c4n4ry" not in console.text()


def test_a_crash_shows_no_values(console: Console) -> None:
    console.setup()

    def crash() -> None:
        raise ValueError("c4n4ry")

    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()
    try:
        crash()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    lines = console.lines()
    assert [line["code"] for line in lines] == ["INTERNAL", "INTERNAL"]
    assert "crash" in lines[0]["where"]
    assert "c4n4ry" not in console.text()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize("names", [False, True])
def test_canaries_stay_inside(console: Console, level: str, style: str, *, names: bool) -> None:
    console.setup(log_level=level, log_format=style, log_resource_names=names)
    jwt = "eyJhbGciOiJFUzM4NCJ9.c4n4ry.c4n4ry"
    url = f"https://user:c4n4ry@kbs/x?key=c4n4ry#{jwt}"
    pem = "-----BEGIN PRIVATE KEY-----\nc4n4ry\n-----END PRIVATE KEY-----"
    for number in (5, 10, 20, 30, 40):
        ours.log(
            number,
            "%s %s %s %s",
            Secret(b"c4n4ry"),
            b"c4n4ry",
            url,
            jwt,
            extra={"detail": pem, "body": "c4n4ry"},
        )
        ours.log(
            number, "%s", {"k": "c4n4ry"}, extra={"detail": Secret(b"c4n4ry"), "reason": f"Bearer {jwt}"}
        )
    assert "c4n4ry" not in console.text()


# --- the handler ----------------------------------------------------------------------------------


def test_a_reader_that_does_not_read_stops_nobody() -> None:
    reader, writer = os.pipe()
    handler = StderrHandler(writer, capacity=10)
    handler.setFormatter(Formatter(ResourceNames(shown=False)))
    for number in range(2000):  # far more than a pipe holds
        handler.emit(logging.makeLogRecord({"name": "coco.x", "msg": f"line {number} {'x' * 500}"}))
    assert handler.dropped > 0
    assert not handler.drain(0)
    collected = bytearray()
    drained = threading.Event()

    def read() -> None:
        while chunk := os.read(reader, 65536):
            collected.extend(chunk)
        drained.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert handler.drain(5)
    handler.close()
    os.close(writer)
    thread.join(5)
    os.close(reader)
    assert drained.is_set()
    lines = [json.loads(line) for line in collected.splitlines()]
    overflow = [line for line in lines if line["event"] == "log lines were dropped"]
    assert sum(line["count"] for line in overflow) == handler.dropped
    assert len(lines) - len(overflow) == 2000 - handler.dropped


def test_a_descriptor_that_does_not_wait_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handler = StderrHandler(writer)
    record = logging.makeLogRecord({"msg": "x" * 1000})
    for _ in range(200):
        handler.emit(record)
    received = 0
    while received < 200 * 1001:
        received += len(os.read(reader, 65536))
    handler.close()
    os.close(writer)
    os.close(reader)
    assert handler.dropped == 0


def test_a_closed_console_is_survived() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    handler = StderrHandler(writer)
    handler.emit(logging.makeLogRecord({"msg": "into nothing"}))
    assert handler.drain(5)
    assert handler.dropped == 1
    handler.close()
    os.close(writer)


def test_a_record_that_cannot_be_formatted_is_counted_and_not_shown(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Broken(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raise ValueError(record.getMessage())

    handler = StderrHandler()
    handler.setFormatter(Broken())
    handler.emit(logging.makeLogRecord({"msg": "c4n4ry"}))
    handler.handleError(logging.makeLogRecord({"msg": "c4n4ry"}))
    assert handler.dropped == 2
    assert handler.drain(5)
    handler.close()
    captured = capfd.readouterr()
    assert "c4n4ry" not in captured.out + captured.err


def test_setting_up_twice_writes_each_line_once(console: Console) -> None:
    before = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    first = console.setup().logs
    console.setup()
    ours.info("once")
    assert len(console.lines()) == 1
    assert console.logs is not None
    console.logs.close()
    assert first is not None
    first.close()
    console.logs = None
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == before


def test_a_line_never_grows_without_bound() -> None:
    long: dict[str, Any] = dict.fromkeys(FIELDS - {"event"}, "\0" * 100_000)
    line = formatted(msg="m" * 100_000, **long)
    assert len(line) < 400_000
    assert re.match(r'\{"ts":', line)
