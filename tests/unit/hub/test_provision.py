"""Credentials come in the background, however long the broker takes."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.config.model import Credential
from agent.errors import AgentError, ErrorCode
from agent.hub.provision import PENDING, Provisioner
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FOLDER = "/run/confidential-containers/cdh/kbs"


@dataclass
class Source:
    """A broker with a fault per resource, and a clock that a test winds by hand."""

    held: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, ErrorCode] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    given: list[Secret] = field(default_factory=list)
    defect: bool = False
    under_way: int = 0
    most: int = 0
    hold: asyncio.Event | None = None
    pauses: list[float] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    slept: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self, uri: str) -> Secret:
        self.asked.append(uri)
        self.entered.set()
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.under_way -= 1
        if self.defect:
            raise RuntimeError("c4n4ry")
        if uri in self.faults:
            raise AgentError(self.faults[uri], "switched on")
        if uri not in self.held:
            raise AgentError(ErrorCode.RESOURCE_NOT_FOUND, "not held")
        self.given.append(Secret(self.held[uri]))
        return self.given[-1]

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.slept.set()
        await self.wake.wait()
        self.wake.clear()

    async def again(self) -> None:
        """Let one sleeper try again, and wait until somebody sleeps."""
        self.slept.clear()
        self.wake.set()
        await asyncio.wait_for(self.slept.wait(), 10)


@pytest.fixture
def source() -> Source:
    return Source()


def made(tmp_path: Path, source: Source, *names: str) -> Provisioner:
    credentials = [Credential(f"{FOLDER}/{name}", f"kbs:///default/file/{name}") for name in names]
    return Provisioner(credentials, source.fetch, root=str(tmp_path), sleep=source.sleep, chance=lambda: 1.0)


@pytest.fixture
async def running() -> AsyncIterator[list[Provisioner]]:
    started: list[Provisioner] = []
    yield started
    for one in started:
        await one.stop()


def read(tmp_path: Path, name: str) -> bytes:
    return (tmp_path / FOLDER.lstrip("/") / name).read_bytes()


async def finished(provisioner: Provisioner) -> None:
    await asyncio.wait_for(asyncio.gather(*provisioner._tasks), 10)


async def test_credentials_are_written_and_the_copies_wiped(tmp_path: Path, source: Source) -> None:
    source.held = {"kbs:///default/file/a": b"one", "kbs:///default/file/b": b"two"}
    provisioner = made(tmp_path, source, "a", "b")
    assert provisioner.counts() == {"pending": 2, "written": 0, "failed": 0}
    assert provisioner.reason() == PENDING
    provisioner.start()
    provisioner.start()
    await finished(provisioner)
    assert (read(tmp_path, "a"), read(tmp_path, "b")) == (b"one", b"two")
    assert provisioner.counts() == {"pending": 0, "written": 2, "failed": 0}
    assert provisioner.reason() is None
    assert sorted(source.asked) == ["kbs:///default/file/a", "kbs:///default/file/b"]
    assert [len(secret) for secret in source.given] == [0, 0]
    await provisioner.stop()
    assert read(tmp_path, "a") == b"one"


@pytest.mark.parametrize(
    ("code", "wakes"),
    [
        (ErrorCode.KBS_UNREACHABLE, True),
        (ErrorCode.KBS_BUSY, True),
        (ErrorCode.RESOURCE_DENIED, False),  # an answer to others says nothing about a policy
        (ErrorCode.RESOURCE_NOT_FOUND, False),
    ],
)
async def test_an_answer_to_others_wakes_those_whose_failure_passes(
    tmp_path: Path, source: Source, running: list[Provisioner], code: ErrorCode, *, wakes: bool
) -> None:
    source.held = {"kbs:///default/file/a": b"one"}
    source.faults = {"kbs:///default/file/a": code}
    paused, answered = asyncio.Event(), asyncio.Event()

    async def until_answered(seconds: float) -> None:
        paused.set()
        await answered.wait()

    credentials = [Credential(f"{FOLDER}/a", "kbs:///default/file/a")]
    provisioner = Provisioner(
        credentials, source.fetch, root=str(tmp_path), sleep=source.sleep, until_answered=until_answered
    )
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for((paused if wakes else source.slept).wait(), 10)
    assert paused.is_set() is wakes
    assert source.slept.is_set() is not wakes
    source.faults.clear()
    (answered if wakes else source.wake).set()
    await finished(provisioner)
    assert read(tmp_path, "a") == b"one"


@pytest.mark.parametrize(
    "code",
    [ErrorCode.KBS_UNREACHABLE, ErrorCode.RESOURCE_DENIED, ErrorCode.RESOURCE_NOT_FOUND, ErrorCode.INTERNAL],
)
async def test_no_failure_is_latched(
    tmp_path: Path, source: Source, running: list[Provisioner], code: ErrorCode
) -> None:
    source.held = {"kbs:///default/file/a": b"one"}
    source.faults = {"kbs:///default/file/a": code}
    provisioner = made(tmp_path, source, "a")
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for(source.slept.wait(), 10)
    assert provisioner.reason() == code.name
    assert provisioner.counts()["failed"] == 1
    await source.again()
    source.faults.clear()
    source.wake.set()
    await finished(provisioner)
    assert provisioner.reason() is None
    assert read(tmp_path, "a") == b"one"


async def test_pauses_grow_to_a_minute(tmp_path: Path, source: Source, running: list[Provisioner]) -> None:
    provisioner = made(tmp_path, source, "a")
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for(source.slept.wait(), 10)
    for _ in range(8):
        await source.again()
    assert source.pauses[:5] == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert set(source.pauses[5:]) == {limits.CREDENTIALS_LONGEST_PAUSE}


async def test_one_that_fails_does_not_hold_up_the_others(
    tmp_path: Path, source: Source, running: list[Provisioner]
) -> None:
    names = [f"n{number}" for number in range(12)]
    source.held = {f"kbs:///default/file/{name}": name.encode() for name in names[1:]}
    provisioner = made(tmp_path, source, *names)
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for(asyncio.gather(*provisioner._tasks[1:]), 10)
    assert provisioner.counts() == {"pending": 0, "written": 11, "failed": 1}
    assert source.most <= limits.CREDENTIALS_AT_ONCE


async def test_an_unsafe_place_is_tried_again_too(
    tmp_path: Path, source: Source, running: list[Provisioner]
) -> None:
    source.held = {"kbs:///default/file/a": b"one"}
    (tmp_path / "run").symlink_to("/nonexistent")
    provisioner = made(tmp_path, source, "a")
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for(source.slept.wait(), 10)
    assert provisioner.reason() == "FILE_UNSAFE"
    (tmp_path / "run").unlink()
    source.wake.set()
    await finished(provisioner)
    assert read(tmp_path, "a") == b"one"


async def test_a_path_elsewhere_is_not_even_fetched(
    tmp_path: Path, source: Source, running: list[Provisioner]
) -> None:
    provisioner = Provisioner(
        [Credential("/run/confidential-containers/cdhX/kbs/a", "kbs:///default/file/a")],
        source.fetch,
        root=str(tmp_path),
        sleep=source.sleep,
    )
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for(source.slept.wait(), 10)
    assert provisioner.reason() == "FILE_UNSAFE"
    assert source.asked == []


async def test_a_defect_is_a_code_and_prints_nothing(
    tmp_path: Path, source: Source, running: list[Provisioner], caplog: pytest.LogCaptureFixture
) -> None:
    source.defect = True
    provisioner = made(tmp_path, source, "a")
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for(source.slept.wait(), 10)
    assert provisioner.reason() == "INTERNAL"
    assert "c4n4ry" not in "".join(str(vars(record)) for record in caplog.records)


async def test_names_and_paths_stay_out_of_the_log(
    tmp_path: Path, source: Source, caplog: pytest.LogCaptureFixture, running: list[Provisioner]
) -> None:
    caplog.set_level(logging.DEBUG)
    source.held = {"kbs:///default/file/sesame": b"c4n4ry"}
    source.faults = {"kbs:///default/file/other": ErrorCode.RESOURCE_DENIED}
    provisioner = made(tmp_path, source, "sesame", "other")
    running.append(provisioner)
    provisioner.start()
    await asyncio.wait_for(source.slept.wait(), 10)
    await asyncio.wait_for(provisioner._tasks[0], 10)
    await source.again()
    lines = [record for record in caplog.records if record.name == "coco.hub"]
    assert [record.levelno for record in lines].count(logging.WARNING) == 1  # once, not at every try
    written = "".join(str(vars(record)) for record in lines)
    assert not any(word in written for word in ("sesame", "c4n4ry", "/run/", "kbs://"))


async def test_stopping_leaves_a_fetch_at_once(tmp_path: Path, source: Source) -> None:
    source.hold = asyncio.Event()
    provisioner = made(tmp_path, source, "a")
    provisioner.start()
    await asyncio.wait_for(source.entered.wait(), 10)
    await asyncio.wait_for(provisioner.stop(), 10)
    assert source.under_way == 0
    assert provisioner.reason() == PENDING


async def test_nothing_to_do(tmp_path: Path, source: Source) -> None:
    provisioner = made(tmp_path, source)
    provisioner.start()
    assert provisioner.reason() is None
    await provisioner.stop()


async def test_stopping_while_writing_leaves_no_empty_file(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.held = {"kbs:///default/file/a": b"one"}
    provisioner = made(tmp_path, source, "a")
    writing, go_on, done = threading.Event(), threading.Event(), threading.Event()
    honest = provisioner._place

    def slow(path: str, content: Secret) -> bool:
        writing.set()
        go_on.wait(10)
        try:
            return honest(path, content)
        finally:
            done.set()

    monkeypatch.setattr(provisioner, "_place", slow)
    provisioner.start()
    assert await asyncio.to_thread(writing.wait, 10)
    await asyncio.wait_for(provisioner.stop(), 10)
    go_on.set()
    assert await asyncio.to_thread(done.wait, 10)
    assert read(tmp_path, "a") == b"one"
