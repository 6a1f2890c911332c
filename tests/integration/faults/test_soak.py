"""Faults at random, many callers: everyone gets the right secret or a typed error, in time, all along.

``SOAK_SECONDS`` sets how long (20 by default, half for each form); ``SOAK_SEED`` repeats a run's choices.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import random
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.config import limits
from agent.devkit.kbs import Fault, Kind, Settings
from agent.errors import ErrorCode
from agent.errors import Fault as Blame
from tests.integration.faults.process import lag_meter, logged, names, open_files
from tests.integration.faults.stage import (
    APIS,
    REST_RESOURCE,
    UNSEAL,
    Outcome,
    Stage,
    note_tokens,
    prepare,
    right,
)
from tests.integration.faults.table import PROXY_PAGE
from tests.integration.test_canary import Canaries

if TYPE_CHECKING:
    from tests.integration.faults.process import Lag, Log
    from tests.integration.faults.stage import Material

pytestmark = pytest.mark.integration

SECONDS = float(os.environ.get("SOAK_SECONDS", "20")) / 2
SEED = int(os.environ.get("SOAK_SEED", "0")) or secrets.randbelow(2**31)

REFUSED = {"RESOURCE_DENIED", "RESOURCE_NOT_FOUND", "SEALED_KEY_UNKNOWN"}
CALLERS = 16
MATERIALS = 6
WAITS = (1, 1, 2, 3)
AGE = 4.0
"""Seconds a value may be older than its request: callers share a fetch, and a broker can be slow to send."""

REMEMBERED = 15.0
"""Seconds after which a refusal must be forgotten."""

MEMORY = 32 * 1024 * 1024
"""Bytes the process may grow by between its first third and its end."""


@dataclass(slots=True)
class Rotating:
    """A resource whose value changes, and when each value was replaced (perf_counter; never: infinity)."""

    material: Material
    values: list[tuple[bytes, float]] = field(default_factory=list)

    def rotate(self, stage: Stage) -> None:
        now = time.perf_counter()
        if self.values:
            self.values[-1] = self.values[-1][0], now
        value = f"CANARY-{self.material.path}-{secrets.token_hex(6)}".encode()
        self.values.append((value, float("inf")))
        self.values = [(old, until) for old, until in self.values if until > now - 60]
        stage.canaries.add(value)
        for kbs in stage.brokers:
            kbs.put(self.material.path, value)

    def right(self, api: str, value: bytes, began: float) -> bool:
        if api in {REST_RESOURCE, "GetResource", UNSEAL}:
            return any(value == held and until >= began - AGE for held, until in self.values)
        return right(api, value, self.material)


def some_fault(chance: random.Random) -> tuple[str, Fault]:
    """An endpoint and what goes wrong there, one to four times."""
    at = chance.choice(("auth", "attest", "resource", "resource"))
    kinds = [
        Fault(Kind.BLACK_HOLE),
        Fault(Kind.DELAY, seconds=chance.uniform(0, 1.5)),
        Fault(Kind.DRIP, size=chance.randint(8, 64), seconds=chance.uniform(0, 0.05)),
        Fault(Kind.RESET, size=chance.choice((0, 1, 40))),
        Fault(Kind.RESET_IN_HEAD),
        Fault(Kind.WRONG_LENGTH, size=chance.choice((-9, -1, 1, 300))),
        Fault(Kind.GARBAGE),
        Fault(Kind.OVERSIZED, size=17 * limits.MIB),
        Fault(
            Kind.STATUS, status=chance.choice((429, 500, 502, 503)), body=PROXY_PAGE, content_type="text/html"
        ),
        Fault(Kind.REDIRECT, to="http://other.example/"),
        Fault(Kind.FORGET_SESSIONS),
        Fault(Kind.ROTATE_SIGNER),
        Fault(
            Kind.PROBLEM, problem=chance.choice(("PolicyDeny", "PluginInternalError", "TokenVerifierError"))
        ),
    ]
    kinds += {
        "auth": [Fault(Kind.REPLAYED_NONCE), Fault(Kind.DROP_COOKIE), Fault(Kind.VERSION_MISMATCH)],
        "attest": [Fault(Kind.EXPIRED_TOKEN), Fault(Kind.HUGE_TOKEN, size=200 * limits.KIB)],
        "resource": [Fault(Kind.WRONG_KEY), Fault(Kind.WRONG_CURVE)],
    }[at]
    return at, replace(chance.choice(kinds), times=chance.randint(1, 4))


class Soak:
    """One run."""

    def __init__(self, stage: Stage, seed: int, log: Log) -> None:
        self.stage = stage
        self.log = log
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.texts: list[str] = []
        self.rotating = [
            Rotating(prepare(stage.kbs, f"soak{n}", stage.canaries, *stage.brokers[1:]))
            for n in range(MATERIALS)
        ]
        self.lasting, stage.canaries = stage.canaries, Canaries()
        self.former = Canaries()
        for each in self.rotating:
            each.rotate(stage)
        self.running = True

    async def run(self, seconds: float) -> int:
        """Chaos and callers for a while; memory in use after the first third."""
        tasks = [asyncio.ensure_future(self._caller()) for _ in range(CALLERS)]
        tasks += [asyncio.ensure_future(self._chaos()), asyncio.ensure_future(self._watch())]
        await asyncio.sleep(seconds / 3)
        early = resident()
        await asyncio.sleep(seconds * 2 / 3)
        self.running = False
        await asyncio.gather(*tasks)
        return early

    async def _caller(self) -> None:
        while self.running:
            api, what = self.chance.choice(APIS), self.chance.choice(self.rotating)
            wait = self.chance.choice(WAITS)
            await self.ask(api, what, wait)
            if self.chance.random() < 0.3:
                await asyncio.sleep(self.chance.uniform(0, 0.1))

    async def ask(self, api: str, what: Rotating, wait: int) -> Outcome:
        """One request, judged."""
        began = time.perf_counter()
        outcome = await self.stage.call(api, what.material, wait)
        self.codes[outcome.code or "ok"] += 1
        self.texts.append(outcome.text)
        if not outcome.code and not what.right(api, outcome.value, began):
            self.wrong.append(f"{api}: a wrong value")
        if outcome.code and not typed(outcome.code):
            self.wrong.append(f"{api}: {outcome.code} {outcome.text[:300]}")
        if not outcome.in_time(wait):
            self.wrong.append(
                f"{api}: {outcome.seconds:.2f} s instead of {wait} ({outcome.late:.2f} s lost here)"
            )
        return outcome

    async def works(self, api: str, what: Rotating) -> None:
        """The next good request works; "denied" and "missing" may be remembered for a moment."""
        until = time.perf_counter() + REMEMBERED
        while (outcome := await self.ask(api, what, 20)).code in REFUSED:
            assert time.perf_counter() < until, outcome
            await asyncio.sleep(0.2)
        assert not outcome.code, outcome

    async def _watch(self) -> None:
        """Look through logs and answers as they come: kept to the end they would be most of the memory."""
        looks = 0
        while self.running:
            await asyncio.sleep(1)
            self.look()
            looks += 1
            if looks % 10 == 0:
                self.former, self.stage.canaries = self.stage.canaries, Canaries()

    def look(self) -> None:
        """Whether a secret of the last ten seconds or more is in a text of the last one."""
        note_tokens(self.stage)
        text = "\n".join([*self.texts, *self.log.lines])
        self.wrong += ["INTERNAL in the log" for line in self.log.lines if '"INTERNAL"' in line]
        self.texts.clear()
        self.log.lines.clear()
        for canaries in (self.lasting, self.former, self.stage.canaries):
            self.wrong += [f"leaked: {found[:16]}..." for found in canaries.found_in(text)]

    async def _chaos(self) -> None:
        while self.running:
            kbs = self.chance.choice(self.stage.brokers)
            match self.chance.choices(
                ("fault", "rotate", "signer", "sessions", "down", "well"), (10, 5, 1, 1, 1, 4)
            )[0]:
                case "fault":
                    kbs.faults.on(*some_fault(self.chance))
                case "rotate":
                    self.chance.choice(self.rotating).rotate(self.stage)
                case "signer":
                    kbs.rotate_signer()
                case "sessions":
                    note_tokens(self.stage)
                    kbs.forget_sessions()
                case "down":
                    await kbs.stop()
                    if self.chance.random() < 0.5:  # all of them
                        await asyncio.gather(*(each.stop() for each in self.stage.brokers))
                    await asyncio.sleep(self.chance.uniform(0, 0.8))
                    for each in self.stage.brokers:
                        if not each.listening:
                            await each.start(port=each.port)
                case _:
                    kbs.faults.clear()
            await asyncio.sleep(self.chance.uniform(0, 0.2))


def typed(code: str) -> bool:
    """Whether a code says something: a broker's failure, or lost time. INTERNAL would be a defect."""
    if code not in ErrorCode.__members__:
        return False
    return ErrorCode[code].meaning.fault is Blame.BROKER or ErrorCode[code].meaning.rest == 504


def resident() -> int:
    """Bytes of memory in use by this process, without what the C library keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def soak(lag: Lag, known: set[str], log: Log, *, split: bool) -> Soak:
    # Short lives: tokens are renewed, and expire, many times.
    settings = Settings(session_life=20, token_life=15)
    stage = Stage(lag, known, settings=settings, split=split, spared=not split)
    async with stage.running():
        run = Soak(stage, SEED, log)
        files = open_files()
        early = await run.run(SECONDS)
        await stage.restore()
        late = resident()
        for what in run.rotating:
            for api in APIS:
                await run.works(api, what)
        run.look()
        print(
            f"\nsoak: seed {SEED}, {SECONDS:g} s, {run.codes.total()} requests, "
            f"{dict(run.codes.most_common())}"
        )
        print(f"soak: longest gap {lag.longest * 1000:.0f} ms, memory +{(late - early) / limits.MIB:.1f} MiB")
        assert late - early < MEMORY
        assert open_files() <= files + limits.KBS_CONNECTIONS * 2
        return run


@pytest.mark.parametrize("form", ["one process, two brokers", "a role each, one broker"])
async def test_every_request_gets_its_secret_or_a_typed_error(form: str) -> None:
    print(f"SOAK_SEED={SEED}")
    tasks, files = len(asyncio.all_tasks()), open_files()
    with logged(logging.INFO) as log, names() as known:
        async with lag_meter() as lag:
            run = await soak(lag, known, log, split=form.startswith("a role"))
    await asyncio.sleep(0)
    assert run.wrong == []
    assert run.codes["ok"] > run.codes.total() / 10
    assert sum(kbs.counters["faults"] for kbs in run.stage.brokers) > SECONDS  # they did happen
    assert len(asyncio.all_tasks()) <= tasks
    assert open_files() <= files
