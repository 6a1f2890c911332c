"""What is wrong with a configuration, as data. Reading collects findings; callers decide what they mean."""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from agent.errors import AgentError, ErrorCode

_NAME_MAX: Final = 80
_PATH_MAX: Final = 4096
_REPORTED_MAX: Final = 5
_COLLECTED_MAX: Final = 200


class Severity(enum.StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong, or looks wrong.

    Attributes:
        severity: errors make ``coco-agent config check`` fail.
        file: file, variable or parameter; a part of init-data is ``<file>[<part>]``.
        key: dotted key, or empty when the whole file is meant.
        message: one clause. It never holds a value of a key that could be secret.
        next_step: what to do about it.
        blocking: whether the agent refuses to start. Some errors show only at first use, as upstream.
    """

    severity: Severity
    file: str
    key: str
    message: str
    next_step: str = ""
    blocking: bool = False

    def sentence(self) -> str:
        """The finding on one line."""
        where = ": ".join(part for part in (self.file, self.key) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.next_step})" if self.next_step else text


class Report(msgspec.Struct):
    """Findings, collected while reading."""

    findings: list[Finding] = msgspec.field(default_factory=list)

    def refuse(self, file: str, key: str, message: str, next_step: str = "") -> None:
        """The agent cannot start with this."""
        self.add(Finding(Severity.ERROR, file, key, message, next_step, blocking=True))

    def error(self, file: str, key: str, message: str, next_step: str = "") -> None:
        """The agent starts, and what depends on this fails at its first use."""
        self.add(Finding(Severity.ERROR, file, key, message, next_step))

    def warn(self, file: str, key: str, message: str, next_step: str = "") -> None:
        """Legal, but worth a look."""
        self.add(Finding(Severity.WARNING, file, key, message, next_step))

    def add(self, finding: Finding) -> None:
        """Add a finding once."""
        # T-CONF-1: a hostile file must not turn into megabytes of log. What stops the start always counts.
        full = len(self.findings) >= _COLLECTED_MAX
        if finding in self.findings:
            return
        if not full or (finding.blocking and not any(known.blocking for known in self.findings)):
            self.findings.append(finding)

    def blames(self, file: str, key: str) -> bool:
        """Whether a key was found wrong already."""
        return any((known.file, known.key) == (file, key) for known in self.findings)

    def raise_blocking(self) -> None:
        """Stop here if something cannot work.

        Raises:
            AgentError: CONFIG_INVALID; names file and key of the first few findings.
        """
        blocking = [finding for finding in self.findings if finding.blocking]
        if not blocking:
            return
        text = "; ".join(finding.sentence() for finding in blocking[:_REPORTED_MAX])
        more = len(blocking) - _REPORTED_MAX
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{text}; and {more} more" if more > 0 else text)


def shown_path(path: str) -> str:
    """A path as it may stand in a message: one line, printable."""
    return shown(path, _PATH_MAX)


def shown(text: str, most: int = _NAME_MAX) -> str:
    """Text from a file as it may stand in a message: one line, printable ASCII, not longer than ``most``."""
    # T-CONF-2: names from files must not forge log lines or terminal sequences.
    cut = text[:most]
    clean = "".join(c if c.isascii() and c.isprintable() else "?" for c in cut)
    return clean if len(text) <= most else f"{clean}..."
