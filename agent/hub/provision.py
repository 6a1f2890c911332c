"""``[[credentials]]`` of cdh.toml and ``cdh.kbs_resources`` of the kernel command line (cdh.md 3.4, 3.6).

Upstream fetches them before it listens, once, and ends when one fails. Here nothing waits for them: each is
fetched in the background until it is there, however long the broker takes.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.config.kinds import CREDENTIALS_FOLDER
from agent.errors import AgentError, ErrorCode
from agent.hub.provision_files import below, place
from agent.observe.redact import locations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from agent.config.model import Credential
    from agent.secret import Secret

log = logging.getLogger("coco.hub")

PENDING: Final = "CREDENTIALS_PENDING"


class State(enum.Enum):
    """Where one credential is; the value is a metric's label."""

    PENDING = "pending"
    WRITTEN = "written"
    FAILED = "failed"


class Provisioner:
    """Fetches credentials into files."""

    def __init__(
        self,
        credentials: Sequence[Credential],
        fetch: Callable[[str], Awaitable[Secret]],
        *,
        root: str = "/",
        folder: str = CREDENTIALS_FOLDER,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        until_answered: Callable[[float], Awaitable[None]] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Prepare; nothing is fetched or opened yet.

        Args:
            credentials: what, and where to.
            fetch: the plaintext at a resource URI, within a time of its own; a copy of ours to wipe.
            root: what ``/`` stands for; injected in tests.
            folder: absolute; nothing outside of it is written.
            sleep: between tries; injected in tests.
            until_answered: as ``sleep``, for failures that pass: ends early when the broker answers anybody.
            chance: 0 to 1, uniformly; injected in tests.
        """
        self._credentials = tuple(credentials)
        self._fetch = fetch
        self._place = partial(place, root, folder)
        self._folder = folder
        self._sleep = sleep
        self._until_answered = until_answered or sleep
        self._chance = chance
        self._turns = asyncio.Semaphore(limits.CREDENTIALS_AT_ONCE)
        self._failures: list[ErrorCode | None] = [None] * len(self._credentials)
        self._written = [False] * len(self._credentials)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the background. Does nothing the second time."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._provide(number)) for number in range(len(self._credentials))
            ]

    async def stop(self) -> None:
        """End; what is written stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def counts(self) -> Mapping[str, int]:
        """How many credentials are in each :class:`State`, for the metric."""
        found = dict.fromkeys((state.value for state in State), 0)
        for number in range(len(self._credentials)):
            found[self.state(number).value] += 1
        return found

    def state(self, number: int) -> State:
        """Where a credential is, by its place in the configuration, from 0."""
        if self._written[number]:
            return State.WRITTEN
        return State.PENDING if self._failures[number] is None else State.FAILED

    def reason(self) -> str | None:
        """For health: why not all are there; the first code, or ``CREDENTIALS_PENDING`` before any failed."""
        missing = [number for number, written in enumerate(self._written) if not written]
        codes = (self._failures[number] for number in missing)
        failed = next((code.name for code in codes if code is not None), None)
        return failed or (PENDING if missing else None)

    async def _provide(self, number: int) -> None:
        pause = limits.CREDENTIALS_FIRST_PAUSE
        # Nothing is latched: a policy can be corrected, a resource uploaded, a folder's mode changed.
        while not await self._try(number):
            # At least half of it: a refusal that stays must not become a load.
            code = self._failures[number]
            passes = code is not None and code.meaning.retry
            sleep = self._until_answered if passes else self._sleep
            await sleep(pause * (0.5 + 0.5 * self._chance()))
            pause = min(2 * pause, limits.CREDENTIALS_LONGEST_PAUSE)

    async def _try(self, number: int) -> bool:
        credential = self._credentials[number]
        try:
            async with self._turns:
                below(self._folder, credential.path)  # before the broker is asked
                secret = await self._fetch(credential.resource_uri)
                written = await asyncio.to_thread(self._keep, credential.path, secret)
        except AgentError as error:
            self._failed(number, error)
            return False
        except Exception as error:  # noqa: BLE001 - recorded; the other credentials go on
            # Without the exception's text (T-LOG-1).
            self._failed(number, AgentError(ErrorCode.INTERNAL, locations(error)))
            return False
        self._written[number] = True
        # Neither name nor path: the console can reach the host. The number is the place in the configuration.
        log.info("credential written" if written else "credential is there", extra={"count": number + 1})
        return True

    def _keep(self, path: str, secret: Secret) -> bool:
        # In the thread: a stop must not wipe what is being written, or an empty file would be left.
        try:
            return self._place(path, secret)
        finally:
            secret.wipe()

    def _failed(self, number: int, error: AgentError) -> None:
        again = self._failures[number] is error.code
        self._failures[number] = error.code
        log.log(
            logging.DEBUG if again else logging.WARNING,
            "credential not written yet",
            extra={"count": number + 1, "code": error.code.name, "detail": error.detail, "hint": error.hint},
        )
