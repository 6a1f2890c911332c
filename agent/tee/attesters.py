"""Attesters by wire string. Each TEE's module is loaded on first use, and asked in a process of its own."""

from __future__ import annotations

import asyncio
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final, TypeVar, cast

from agent.errors import AgentError, ErrorCode
from agent.tee.devices import Collected
from agent.tee.threaded import OneAtATime
from agent.tee.worker import collect

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline
    from agent.config.model import Attester as Settings
    from agent.tee.base import Binds, Collects, Measures

T = TypeVar("T")

MODULES: Final = {
    "snp": "agent.tee.snp",
    "tdx": "agent.tee.tdx",
    "az-snp-vtpm": "agent.tee.az_snp_vtpm",
    "az-tdx-vtpm": "agent.tee.az_tdx_vtpm",
    "tpm": "agent.tee.tpm",
    "cca": "agent.tee.cca",
    "sgx": "agent.tee.sgx",
    "se": "agent.tee.se",
    "csv": "agent.tee.csv",
    "nvidia": "agent.tee.nvidia",
    "hygondcu": "agent.tee.dcu",
}
"""Wire string to the module that satisfies ``agent.tee.base.Collects`` (and Binds, Measures where it can)."""

IN_PROCESS: Final = frozenset({"sgx"})
"""Asked in a thread: below a LibOS another process is another enclave, and its files do not hang."""


class DeviceAttester:
    """One TEE or device family. Satisfies ``agent.tee.base.Attester`` and ``agent.tee.devices.Family``.

    Whatever is asked of it is asked one at a time: registers do not move between quote and report, and a
    driver with one sequence counter is not raced.

    Attributes:
        tee: wire string.
    """

    def __init__(self, tee: str, settings: Settings) -> None:
        self.tee = tee
        self._settings = settings
        self._module = MODULES[tee]
        self._turn = asyncio.Lock()
        self._thread = OneAtATime()

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        """See ``agent.tee.base.Attester``. The process that asks the hardware is killed at the deadline.

        Raises:
            AgentError: as the TEE's module; EVIDENCE_TIMEOUT; EVIDENCE_FAILED when the process died.
        """
        return (await self.collect_devices(report_data, deadline)).evidence

    async def collect_devices(self, report_data: bytes, deadline: Deadline) -> Collected:
        """As :meth:`collect`, with what each device of a family answered."""
        if self.tee in IN_PROCESS:
            module = cast("Collects", self._loaded())
            work = partial(module.collect, self._settings, report_data, deadline)
            return Collected(await self.ask(work, deadline))
        async with self._turn:
            await self._thread.idle()  # a caller that left early leaves its work behind
            return await collect(self._module, self._settings, report_data, deadline, tee=self.tee)

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> None:
        """See ``agent.tee.base.Binds``.

        Raises:
            AgentError: INIT_DATA_MISMATCH; NOT_SUPPORTED, the TEE has no place for init-data.
        """
        module = self._loaded()
        if not hasattr(module, "bind_init_data"):
            raise AgentError(ErrorCode.NOT_SUPPORTED, f"{self.tee} has no register for init-data")
        binds = cast("Binds", module)
        await self.ask(partial(binds.bind_init_data, self._settings, digest), deadline)

    @property
    def registers(self) -> Measures | None:
        """The TEE's runtime measurement registers; None when it has none."""
        module = self._loaded()
        return cast("Measures", module) if hasattr(module, "extend_register") else None

    async def ask(self, work: Callable[[], T], deadline: Deadline) -> T:
        """Run something blocking about this device in its thread, never beside a quote.

        Raises:
            AgentError: EVIDENCE_TIMEOUT, or what ``work`` raises.
        """
        try:
            async with deadline.limit(f"asking {self.tee}"), self._turn:
                return await self._thread.run(work)
        except AgentError as error:
            if error.code is not ErrorCode.DEADLINE_EXCEEDED:
                raise
            raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, error.detail) from None

    def _loaded(self) -> object:
        return import_module(self._module)
