"""From one parsed file to settings, by the table of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import msgspec

from agent.config import kinds
from agent.config.findings import shown, shown_path
from agent.config.keys import KEYS, File, Key, keys_of
from agent.config.kinds import Refused, read_pem, wrong_type
from agent.config.model import Origin, Source
from agent.config.narrow import rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.config.document import Document, Table
    from agent.config.findings import Report
    from agent.config.settings import Settings

_UNKNOWN_MAX: Final = 50
_SAME: Final = {"kbs.cert": ("kbs.cert_file",), "kbs.cert_file": ("kbs.cert",)}
NOT_IN_INIT_DATA: Final = {
    "attester.allow_unbound_init_data": "it decides whether init-data counts; the image's agent.toml can",
    "control.launchers": "processes of their own would not see this file; the image's agent.toml can",
}
"""Keys of agent.toml that init-data cannot set, and why."""
_LONGEST_NAME: Final = max(len(key.name) for key in KEYS) + 8


class Layer(msgspec.Struct, frozen=True):
    """One file that is read, and how far it can be trusted.

    Attributes:
        file: which file it is.
        document: its content.
        source: FILE, INIT_DATA or UNBOUND.
        over: names of keys that a stronger file of the same kind has given.
    """

    file: File
    document: Document
    source: Source = Source.FILE
    over: frozenset[str] = frozenset()


def read_document(
    layer: Layer, settings: Settings, report: Report, contents: Mapping[str, str | None]
) -> frozenset[str]:
    """Put a file's values into settings; what is wrong goes into the report.

    Args:
        layer: the file.
        settings: written to.
        report: findings are added here.
        contents: texts of files that keys of this file name, by path; None for a file that cannot be
            read here, whose key is then left out.

    Returns:
        Names of the keys that were given, and of those that mean the same.
    """
    file, document = layer.file, layer.document
    _report_unknown(file, document, report)
    given: set[str] = set()
    unused: list[str] = []
    for key in keys_of(file):
        raw = find(document.tree, key.name)
        if raw is None:
            table, _, last = key.name.rpartition(".")
            if key.required or (key.needed and find(document.tree, table) is not None):
                report.refuse(
                    document.path, key.name, "is missing", f"add {last} = {key.example} below [{table}]"
                )
            continue
        given |= {key.name, *_SAME.get(key.name, ())}
        value = _convert(key, raw, document.path, report, contents)
        if value is None:
            continue
        if key.name not in layer.over:
            _put(key, value, layer, settings, report)
        if not key.used and value not in (False, "", ()):
            unused.append(key.name)
    _report_unused(unused, document.path, report)
    return frozenset(given)


def _put(key: Key, value: object, layer: Layer, settings: Settings, report: Report) -> None:
    origin = Origin(layer.source, layer.document.path)
    if layer.source is not Source.FILE and key.name in NOT_IN_INIT_DATA:
        # T-CONF-43: what decides whether init-data counts, or who gets to see it, is not said in it.
        report.refuse(layer.document.path, key.name, "cannot be set in init-data", NOT_IN_INIT_DATA[key.name])
        return
    for target in key.sets:
        if key.fills and settings.has(target):
            continue
        if layer.source is not Source.UNBOUND:
            settings.put(target, value, origin, key.name)
        elif not settings.offer(target, value, origin, key.name):
            where = settings.where(target)
            message = f"would widen {where[1]} of {shown_path(where[0])}, which is measured; it is ignored"
            report.error(layer.document.path, key.name, message, f"what it may say: {rule(target).words}")


def find(tree: Table, name: str) -> object | None:
    """A value by its dotted name; None when it is not there. JSON's null is not there."""
    value: object = tree
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _convert(
    key: Key, raw: object, path: str, report: Report, contents: Mapping[str, str | None]
) -> object | None:
    try:
        value = key.kind.read(raw)
        if key.contents:
            value = _content(cast("str", value), contents)
    except Refused as refused:
        (report.warn if key.lenient else report.refuse)(path, key.name, str(refused), refused.next_step)
        return None
    return value


def _content(path: str, contents: Mapping[str, str | None]) -> str | None:
    if path not in contents:
        raise Refused("names a file that was not read")
    text = contents[path]
    if text is None:
        return None
    if not text.strip():
        raise Refused("names an empty file")
    return read_pem(text)


def _report_unused(names: list[str], path: str, report: Report) -> None:
    told: set[str] = set()
    for name in names:
        table = "image" if name.startswith("image.") else name
        if table not in told:
            told.add(table)
            report.warn(path, table, "is read, and has no effect in this release")


def _report_unknown(file: File, document: Document, report: Report) -> None:
    known = {key.name for key in keys_of(file)}
    tables = {prefix for name in known for prefix in _prefixes(name)}
    unknown = 0
    for name, value in _walk(document.tree, tables, known):
        if name in tables and not isinstance(value, dict):
            report.refuse(document.path, name, str(wrong_type("a table", value)))
            continue
        unknown += 1
        if unknown > _UNKNOWN_MAX:
            continue
        meant = "" if file is File.AGENT else _nearly(name, value, file)
        guess = meant or suggest_name(name, file)
        hint = f"did you mean {guess}?" if guess else ""
        if meant:
            # T-CONF-40: with a misspelt table a pod has no broker, and nothing else says so.
            report.error(document.path, shown(name), "is no table of this file and is ignored", hint)
        elif file is File.AGENT:
            # Ours is strict: a misspelt trust setting must not pass as one that was never made.
            report.refuse(document.path, shown(name), "is not a key of this file", hint)
        else:
            report.warn(document.path, shown(name), "is not a key of this file and is ignored", hint)


def _prefixes(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(1, len(parts)):
        yield ".".join(parts[:count])


def _walk(tree: Table, tables: set[str], known: set[str], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Names that are not in the table of keys, and tables that are none. Never deeper than the keys go."""
    for part, value in tree.items():
        name = f"{prefix}{part}"
        if value is None:
            continue
        # A dot inside a quoted key would pass for a path.
        if "." in part or name not in tables | known:
            yield name, value
        elif name in tables:
            if isinstance(value, dict):
                yield from _walk(value, tables, known, f"{name}.")
            else:
                yield name, value


def _nearly(name: str, value: object, file: File) -> str:
    """The table that an unknown one is one edit away from, or empty; capitals and quotes are no edit."""
    is_table = isinstance(value, dict) or (
        isinstance(value, list) and all(isinstance(item, dict) for item in value)
    )
    if not is_table or not value or len(name) > _LONGEST_NAME:
        return ""
    known = {prefix for key in keys_of(file) for prefix in _prefixes(key.name)}
    known |= {key.name for key in keys_of(file) if key.kind in {kinds.TABLE, kinds.CREDENTIALS}}
    return next((one for one in sorted(known) if one_edit(name.lower(), one)), "")


def one_edit(left: str, right: str) -> bool:
    """Whether two names differ by one character at most: missing, added, another one, or two exchanged."""
    short, long = sorted((left, right), key=len)
    if len(long) - len(short) > 1:
        return False
    at = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :]
    exchanged = short[at : at + 2] == long[at : at + 2][::-1]
    return short[at + 1 :] == long[at + 1 :] or (exchanged and short[at + 2 :] == long[at + 2 :])


def suggest_name(name: str, file: File) -> str:
    """The key that was probably meant: of this file, or of another one; empty when nothing is close."""
    # T-CONF-10: matching is slow, so only names that could be meant are matched, and few of one file.
    if len(name) > _LONGEST_NAME:
        return ""
    wanted = name.lower()
    for key in KEYS:
        if key.file is not file and wanted in {key.name, *_prefixes(key.name)}:
            return f"{wanted} of {key.file.value}"
    own = [key.name for key in keys_of(file)]
    tables = sorted({prefix for known in own for prefix in _prefixes(known)})
    import difflib  # noqa: PLC0415  # for a key that is misspelt

    close = difflib.get_close_matches(wanted, [*own, *tables], n=1, cutoff=0.75)
    if close:
        return close[0]
    last = wanted.rpartition(".")[2]
    return next((known for known in own if known.rpartition(".")[2] == last), "")
