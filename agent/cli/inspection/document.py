"""Evidence as something to print: fields, checks, tables and parts; text for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from agent.cli import text
from agent.errors import AgentError, ErrorCode
from agent.tee.base import regularize
from agent.tee.evidence.verdict import VENDOR, Check, Roots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Value: TypeAlias = "str | int | bool | bytes | tuple[str, ...] | None"

RED: Final = "31"
RESULTS: Final = {True: "ok", False: "FAILED", None: "not checked"}
_CHAINS: Final = frozenset({"certificate chain", "device chain"})
_CELL: Final = 128  # a SHA-512 in full
_NARROW: Final = 26


class Context(msgspec.Struct, frozen=True):
    """What is known besides the file.

    Attributes:
        roots: where chains end; its certificates are those of ``--chain``.
        chain: DER certificates of ``--chain``, in their order.
        chain_pem: the same as PEM; empty without any.
        report_data: what the evidence should be bound to, unpadded; None when nobody says.
        init_data: digest of the init-data; None when nobody says.
    """

    roots: Roots = VENDOR
    chain: tuple[bytes, ...] = ()
    chain_pem: bytes = b""
    report_data: bytes | None = None
    init_data: bytes | None = None

    def expecting(self, report_data: bytes | None, init_data: bytes | None) -> Context:
        """The same with other expectations."""
        return replace(self, report_data=report_data, init_data=init_data)

    def bindings(self, report_data: bytes, init_data: bytes | None) -> tuple[Check, ...]:
        """Whether the evidence is bound to what was expected; nothing where nothing was."""
        found = []
        if self.report_data is not None:
            found.append(_same("report data", report_data, self.report_data))
        if self.init_data is not None and init_data is not None:
            found.append(_same("init-data", init_data, self.init_data))
        return tuple(found)


def _same(name: str, seen: bytes, expected: bytes) -> Check:
    passed = seen == regularize(expected, len(seen))
    return Check(name, passed, "as expected" if passed else f"not {expected.hex()}")


class Field(msgspec.Struct, frozen=True):
    """One value.

    Attributes:
        name: for people and, with underscores, for programs; what follows in brackets is for people only.
        value: bytes are printed as hex.
        alarm: something nobody wants in production.
    """

    name: str
    value: Value
    alarm: bool = False


class Table(msgspec.Struct, frozen=True):
    """Many alike.

    Attributes:
        name: heading.
        header: names of columns, in capitals.
        rows: cells.
        narrow: a column whose cells are cut to a few characters for people.
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    narrow: str = ""


class Document(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        kind: for programs, e.g. ``tdx-quote``.
        title: for people.
        fields: single values.
        checks: what was verified.
        tables: lists of things.
        parts: documents inside this one.
        warnings: what verifiers refuse, or nobody should rely on, although no check failed.
    """

    kind: str
    title: str
    fields: tuple[Field, ...] = ()
    checks: tuple[Check, ...] = ()
    tables: tuple[Table, ...] = ()
    parts: tuple[Document, ...] = ()
    warnings: tuple[str, ...] = ()

    def failed(self) -> bool:
        """Whether any check failed, here or in a part."""
        return any(check.passed is False for check in self.checks) or any(
            each.failed() for each in self.parts
        )

    def lacks_certificates(self) -> bool:
        """Whether a chain could not be followed, here or in a part."""
        return any(check.passed is None and check.name in _CHAINS for check in self.checks) or any(
            each.lacks_certificates() for each in self.parts
        )

    def as_json(self) -> dict[str, object]:
        """For programs."""
        found: dict[str, object] = {
            "kind": self.kind,
            "failed": self.failed(),
            "fields": {_key(each.name): _value(each.value) for each in self.fields},
            "alarms": [_key(each.name) for each in self.fields if each.alarm],
            "warnings": list(self.warnings),
            "checks": [
                {"name": each.name, "result": RESULTS[each.passed], "detail": each.detail}
                for each in self.checks
            ],
        }
        if self.tables:
            found["tables"] = {
                _key(table.name): [
                    {_key(name): _value(cell) for name, cell in zip(table.header, row, strict=True)}
                    for row in table.rows
                ]
                for table in self.tables
            }
        if self.parts:
            found["parts"] = [each.as_json() for each in self.parts]
        return found

    def as_text(self, *, colour: bool) -> str:
        """For people; what is wrong or alarming in red if ``colour``."""
        return "\n".join(self.lines(colour=colour))

    def lines(self, *, colour: bool) -> Iterator[str]:
        """The lines of :meth:`as_text`."""
        yield plain(self.title)
        width = max((len(each.name) for each in self.fields), default=0)
        for value in self.fields:
            line = f"  {value.name:<{width}}  {_cell(value.value)}".rstrip()
            yield text.painted(line, RED) if value.alarm and colour else line
        for warning in self.warnings:
            line = f"  warning: {plain(warning)}"
            yield text.painted(line, RED) if colour else line
        if self.checks:
            yield ""
            yield from _check_lines(self.checks, colour=colour)
        for table in self.tables:
            yield ""
            yield f"{table.name}:"
            widest = [_NARROW if name == table.narrow else _CELL for name in table.header]
            rows = [
                [_short(cell, width) for cell, width in zip(row, widest, strict=True)] for row in table.rows
            ]
            yield from text.table(rows, table.header).splitlines()
        for each in self.parts:
            yield ""
            yield from each.lines(colour=colour)


def _check_lines(checks: tuple[Check, ...], *, colour: bool) -> Iterator[str]:
    rows = [(plain(check.name), RESULTS[check.passed], plain(check.detail)) for check in checks]
    header, *lines = text.table(rows, ("CHECK", "RESULT", "DETAIL")).splitlines()
    yield header
    for check, line in zip(checks, lines, strict=True):
        yield text.painted(line, RED) if colour and check.passed is False else line


def part(title: str, read: Callable[[], Document]) -> Document:
    """A document inside another; one that is broken fails by itself, and the others are still shown."""
    try:
        return read()
    except AgentError as error:
        if error.code is not ErrorCode.EVIDENCE_MALFORMED:
            raise
        return Document("malformed", title, checks=(Check("structure", passed=False, detail=error.detail),))


def flags(name: str, bits: Mapping[str, bool], alarms: frozenset[str] = frozenset()) -> tuple[Field, ...]:
    """One line with the bits that are set, and a line of its own for each bit that may alarm."""
    quiet = tuple(bit for bit, on in bits.items() if on and bit not in alarms)
    loud = tuple(Field(bit, on, alarm=on) for bit, on in bits.items() if bit in alarms)
    return (*loud, Field(name, quiet))


def plain(value: str) -> str:
    """Text of unknown origin as printable ASCII."""
    # T-TEE-2: evidence holds text of the host's choosing; it must not steer the terminal it is shown on.
    return "".join(
        char if " " <= char <= "~" else char.encode("unicode_escape").decode("ascii")
        for char in value.encode("utf-8", "backslashreplace").decode()
    )


def _key(name: str) -> str:
    return name.partition(" (")[0].lower().replace(" ", "_").replace("-", "_")


def _value(value: Value) -> str | int | bool | list[str] | None:
    if isinstance(value, tuple):
        return list(value)
    return value.hex() if isinstance(value, bytes) else value


def _cell(value: Value) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return plain(" ".join(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value.hex() if isinstance(value, bytes) else str(value))


def _short(value: Value, width: int) -> str:
    shown = _cell(value)
    return shown if len(shown) <= width else f"{shown[: width - 3]}..."
