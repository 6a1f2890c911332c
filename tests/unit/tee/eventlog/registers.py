"""Registers in a file: what a TEE's module offers, with switches for what can go wrong."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.config.model import Attester
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence import events

if TYPE_CHECKING:
    from pathlib import Path

    from agent.tee.base import Measures

COUNT = 5
FIRST = 1


@dataclass
class FileRegisters:
    """Satisfies ``agent.tee.base.Measures``. PCRs as on TDX: 17 is register 4, 0 is refused.

    One extension is one write, as it is one call into hardware.
    """

    path: Path
    ALGORITHM: str = "sha384"
    problem: str | None = None
    FIRMWARE_LOG: bool = False
    refuses: AgentError | None = None
    extends_and_refuses: bool = False
    deaf: bool = False
    wrong: bool = False
    extended: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.path.exists():
            # Registers do not begin with zeros: firmware and kernel extended them before.
            self.path.write_bytes(b"".join(bytes([number]) * self.size for number in range(COUNT)))

    @property
    def size(self) -> int:
        return hashlib.new(self.ALGORITHM).digest_size

    def measurement_problem(self, settings: Attester) -> str | None:
        return self.problem

    def register_of(self, pcr: int) -> int:
        if pcr > 23 or pcr == 0:
            raise AgentError(ErrorCode.INVALID_REQUEST, f"PCR {pcr} cannot be extended")
        return 1 if pcr in {1, 7} else 2 if pcr <= 6 else 3 if pcr <= 15 else 4

    def read_register(self, settings: Attester, register: int) -> bytes:
        file = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(file, self.size, register * self.size)
        finally:
            os.close(file)

    def extend_register(self, settings: Attester, register: int, digest: bytes) -> None:
        if self.refuses is not None and not self.extends_and_refuses:
            raise self.refuses
        self.extended.append(register)
        if not self.deaf:
            self._write(register, digest[::-1] if self.wrong else digest)
        if self.refuses is not None:
            raise self.refuses

    def _write(self, register: int, digest: bytes) -> None:
        value = hashlib.new(self.ALGORITHM, self.read_register(Attester(), register) + digest).digest()
        file = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(file, value, register * self.size)
        finally:
            os.close(file)

    def values(self) -> list[bytes]:
        return [self.read_register(Attester(), number) for number in range(COUNT)]


@dataclass
class Guest:
    """A guest's folders, and an independent look at what is in them."""

    root: Path
    algorithm: str = "sha384"

    def __post_init__(self) -> None:
        self.folder = self.root / "run" / "attestation-agent"
        self.registers = FileRegisters(self.root / "registers", ALGORITHM=self.algorithm)
        self.began = self.registers.values()

    @property
    def measures(self) -> Measures:
        return self.registers

    def settings(self, *, enabled: bool = True, init_pcr: int = 17) -> Attester:
        return Attester(
            enable_eventlog=enabled,
            init_pcr=init_pcr,
            eventlog_dir=str(self.folder),
            sysroot=str(self.root / "sysroot"),
        )

    def log(self) -> bytes:
        path = self.folder / "eventlog"
        return path.read_bytes() if path.exists() else b""

    def events(self) -> list[tuple[int, str, str, str]]:
        found = []
        for event in events.parse_entries(self.log()):
            said = events.runtime_event(event)
            assert said is not None
            assert events.digest_matches_event(event)
            found.append((event.register, said.domain, said.operation, said.content))
        return found

    def agrees(self) -> bool:
        """Whether the log leads from where the registers began to where they are."""
        values = list(self.began)
        for event in events.parse_entries(self.log()):
            digest = event.digest(self.algorithm)
            assert digest is not None
            values[event.register] = hashlib.new(self.algorithm, values[event.register] + digest).digest()
        return values == self.registers.values()

    def leftovers(self) -> set[str]:
        """Neither the log nor where it begins, and put in place already."""
        names = {path.name for path in self.folder.iterdir() if path.suffix != ".new"}
        return names - {"eventlog", ".registers"}
