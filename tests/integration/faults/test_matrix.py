"""Point by point: every fault of the table, at every API (docs/faults.md)."""

from __future__ import annotations

import asyncio
import gc
import re
import tracemalloc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from agent.devkit.kbs import Kind
from tests.integration.faults import table
from tests.integration.faults.process import lag_meter, logged, names, open_files
from tests.integration.faults.stage import (
    APIS,
    REST_TOKEN,
    Outcome,
    Stage,
    note_tokens,
    prepare,
    right,
)
from tests.integration.faults.table import ROWS, SHARED, Row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.errors import ErrorCode
    from tests.integration.faults.process import Lag, Log
    from tests.integration.faults.stage import Material

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

WAIT = 2
"""Seconds the callers of a failing broker wait."""

PATIENCE = 20
"""Seconds the callers of a well broker wait: other work on this machine is not under test."""

AT_ONCE = 4
REPEATS = 3
"""How often a row that is not as documented is played again, alone and each time with twice the time.

The parts of an agent wait a share of the budget for each other's reason, so a machine that is busy for longer
hides it: the time ran out, where another reason belongs. An agent that loses the reason loses it at any time.
"""

ELSEWHERE = re.compile(r"the other role's log has request ([0-9a-f]{16})")
ONE, SPLIT = FORMS = ("one process", "a role each")
ROUNDS = 3
MEMORY = 1024 * 1024
"""Bytes that all rows together may keep after :data:`ROUNDS` rounds of each."""

ALL = {row.id: row for row in ROWS}
PASSING = {
    row.id: row
    for row in ROWS
    if row.code is not None
    and row.code.meaning.retry
    and row.at in {"auth", "attest", "resource"}
    # What times out is not repeated: its time is used up.
    and row.code.meaning.rest != 504
}


@dataclass(slots=True)
class Played:
    """What one row gave."""

    row: Row
    wait: int = WAIT
    faulty: dict[str, Outcome] = field(default_factory=dict)
    again: dict[str, Outcome] = field(default_factory=dict)
    once: dict[str, Outcome] = field(default_factory=dict)
    first: Material | None = None
    second: Material | None = None
    leaks: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Matrix:
    """What the whole table gave."""

    played: dict[tuple[str, str], Played] = field(default_factory=dict)
    log: Log | None = None
    tasks: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)

    def details(self, outcome: Outcome) -> str:
        """The operator's lines of one failed call."""
        assert self.log is not None
        wanted, found = outcome.request_id or "none", ""
        for _ in range(3):  # roles of their own say where to look on
            lines = [line for line in self.log.lines if wanted in line and '"detail"' in line]
            found += "\n".join(lines)
            further = ELSEWHERE.search("".join(line for line in lines if f'"request_id":"{wanted}"' in line))
            if further is None:
                break
            wanted = further[1]
        return found

    def as_documented(self, played: Played) -> bool:
        """Whether every API answered with the row's code and reason, in time."""
        for api, outcome in played.faulty.items():
            expected = played.row.expected(api)
            if outcome.code != (expected.name if expected else "") or not outcome.in_time(played.wait):
                return False
            if expected and not re.search(played.row.says, self.details(outcome), re.IGNORECASE):
                return False
        return True


def stage_for(row: Row, lag: Lag, known: set[str], *, split: bool = False) -> Stage:
    return Stage(lag, known, secure=row.secure, pinned=row.pinned, named=row.named, split=split)


async def play(row: Row, lag: Lag, known: set[str], log: Log, *, split: bool, wait: int = WAIT) -> Played:
    """Each API under the fault, then all of them without it."""
    result = Played(row, wait)
    async with stage_for(row, lag, known, split=split).running() as stage:
        result.first = prepare(stage.kbs, "first", stage.canaries)
        # "Missing" and "denied" may be remembered for a moment: the next good request asks for another.
        result.second = prepare(stage.kbs, "second", stage.canaries)
        await row.switch(stage)
        result.faulty = await stage.every_api(result.first, wait)
        note_tokens(stage)
        await stage.restore()
        result.again = await stage.every_api(result.second, PATIENCE)
        note_tokens(stage)
        if not result.again[REST_TOKEN].code:
            held = result.again[REST_TOKEN].value.decode().split("\\n")
            stage.canaries.texts |= {line for line in held if len(line) >= 16 and "-" not in line}
        if row.id in PASSING:
            result.once = await play_once(row, stage, result.second)
    texts = [outcome.text for outcome in (*result.faulty.values(), *result.again.values())]
    result.leaks = stage.canaries.found_in("\n".join([*texts, *log.lines]))
    return result


async def play_once(row: Row, stage: Stage, material: Material) -> dict[str, Outcome]:
    """One hit of the fault for each API, each with a token that has to be fetched anew."""
    outcomes = {}
    for api in APIS:
        if row.at != "resource":
            stage.kbs.rotate_signer()  # the held token is refused, so there is a handshake
        await row.switch(stage)
        for armed in stage.kbs.faults._armed[row.at]:
            armed.left = 1
        outcomes[api] = await stage.call(api, material, PATIENCE)
        await stage.restore()
    return outcomes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def matrix(request: pytest.FixtureRequest) -> AsyncIterator[Matrix]:
    """Rows are independent, so they are played side by side; only those that a selected test asks for."""
    wanted = {
        (item.callspec.params["row"], item.callspec.params["form"])
        for item in request.session.items
        if item.parent is request.node and hasattr(item, "callspec") and "row" in item.callspec.params
    }
    result, free = Matrix(), asyncio.Semaphore(AT_ONCE)
    with logged() as log, names() as known:
        async with lag_meter() as lag:
            before = len(asyncio.all_tasks()), open_files()

            async def one(row: str, form: str, wait: int = WAIT) -> None:
                async with free:
                    result.played[row, form] = await play(
                        ALL[row], lag, known, log, split=form == SPLIT, wait=wait
                    )

            await asyncio.gather(*(one(*each) for each in sorted(wanted)))
            result.log = log
            for row, form in sorted(wanted):
                for repeat in range(REPEATS):
                    if result.as_documented(result.played[row, form]):
                        break
                    await one(row, form, WAIT * 2 ** (repeat + 1))
            await asyncio.sleep(0)
            result.tasks, result.files = (before[0], len(asyncio.all_tasks())), (before[1], open_files())
        yield result


CASES = [(name, form) for name in sorted(ALL) for form in FORMS]
every_row = pytest.mark.parametrize(("row", "form"), CASES)


@every_row
@pytest.mark.parametrize("api", APIS)
async def test_a_fault_has_its_code_in_time(row: str, form: str, api: str, matrix: Matrix) -> None:
    played = matrix.played[row, form]
    outcome, expected = played.faulty[api], played.row.expected(api)
    assert outcome.code == (expected.name if expected else ""), (outcome, matrix.details(outcome))
    assert outcome.right_status(), outcome
    assert outcome.in_time(played.wait), outcome
    if expected is None:
        assert played.first is not None
        assert right(api, outcome.value, played.first)
    else:
        assert re.search(played.row.says, matrix.details(outcome), re.IGNORECASE), matrix.details(outcome)


@every_row
async def test_the_next_good_request_works(row: str, form: str, matrix: Matrix) -> None:
    played = matrix.played[row, form]
    assert played.second is not None
    for api, outcome in played.again.items():
        assert outcome.code == "", (outcome, matrix.details(outcome))
        assert right(api, outcome.value, played.second), api


@every_row
async def test_no_secret_is_in_any_text(row: str, form: str, matrix: Matrix) -> None:
    assert matrix.played[row, form].leaks == []


@pytest.mark.parametrize(("row", "form"), [(name, form) for name in sorted(PASSING) for form in FORMS])
async def test_a_fault_that_passes_is_not_seen(row: str, form: str, matrix: Matrix) -> None:
    once = matrix.played[row, form].once
    assert {api: outcome.code for api, outcome in once.items()} == dict.fromkeys(APIS, "")


async def test_nothing_is_left_open(matrix: Matrix) -> None:
    assert matrix.tasks[1] <= matrix.tasks[0]
    assert matrix.files[1] <= matrix.files[0]


async def test_memory_is_back_where_it_was() -> None:
    """Every row's agent at once, fault upon fault; what they hold together is compared."""
    with logged() as log, names() as known:
        async with lag_meter() as lag:
            stages = [(row, stage_for(row, lag, known)) for row in ROWS]

            async def round_of(row: Row, stage: Stage, material: Material) -> None:
                await row.switch(stage)
                await stage.every_api(material, 1)
                await stage.restore()
                stage.kbs.forget_sessions()  # what the broker remembers is not the agent's
                stage.kbs.seen.clear()

            async def rounds(number: int) -> None:
                for _ in range(number):
                    await asyncio.gather(*(round_of(*each) for each in running))
                    log.lines.clear()

            running: list[tuple[Row, Stage, Material]] = []
            exits = []
            try:
                for row, stage in stages:
                    live = stage.running()
                    await live.__aenter__()
                    exits.append(live)
                    running.append((row, stage, prepare(stage.kbs, "first", stage.canaries)))
                await rounds(1)  # code is imported and compiled, caches and connections fill
                tracemalloc.start()
                await rounds(1)
                before = traced()
                await rounds(ROUNDS)
                after = traced()
                for _ in range(50):  # a broker that is still sending to nobody gives up soon
                    if after - before < MEMORY:
                        break
                    await asyncio.sleep(0.1)
                    after = traced()
            finally:
                tracemalloc.stop()
                for live in reversed(exits):
                    await live.__aexit__(None, None, None)
    assert after - before < MEMORY, (before, after)


def traced() -> int:
    """Bytes that are left after everything unreachable is gone."""
    for _ in range(3):
        gc.collect()
    return tracemalloc.get_traced_memory()[0]


# --- the table itself -----------------------------------------------------------------------------
async def test_the_document_is_the_table() -> None:
    assert table.DOCUMENT.read_text() == table.render(), "run: python -m tests.integration.faults.table"


async def test_every_switch_of_the_broker_is_in_the_table() -> None:
    source = (table.DOCUMENT.parents[1] / "tests/integration/faults/table.py").read_text()
    assert [
        kind.name
        for kind in Kind
        if f"Kind.{kind.name}," not in source and f"Kind.{kind.name})" not in source
    ] == []


async def test_codes_that_faults_share_say_why() -> None:
    rows: dict[ErrorCode, set[tuple[str, str]]] = {}
    for row in ROWS:
        if row.code is not None:
            rows.setdefault(row.code, set()).add((row.fault, row.at))
    assert {code for code, found in rows.items() if len(found) > 1} == set(SHARED)
