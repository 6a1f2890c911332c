"""``coco-agent config check``: finds mistakes on a laptop, before a pod finds them (user_pains.md row 11)."""

from __future__ import annotations

import enum
import re
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, assert_never

from agent.clock import SystemClock
from agent.config import kinds, limits, pem, toml
from agent.config.assemble import InitDataFile, Inputs, findings
from agent.config.document import Document, parse
from agent.config.findings import Finding, Report, Severity, shown, shown_path
from agent.config.keys import File, keys_of
from agent.config.load import cert_file, plain
from agent.config.model import KbsServer
from agent.config.reading import find, one_edit, suggest_name
from agent.errors import AgentError
from agent.files import read_trusted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.clock import Clock
    from agent.config.document import Table
    from agent.config.keys import Key

__all__ = ["Finding", "Severity", "check"]

_SOON: Final = timedelta(days=30)
_ALGORITHMS: Final = ("sha256", "sha384", "sha512")
_VERSION: Final = "0.1.0"
PARTS: Final = {"aa.toml": File.AA, "cdh.toml": File.CDH, "agent.toml": File.AGENT, "policy.rego": None}
_TOP: Final = {file: {key.name.partition(".")[0] for key in keys_of(file)} for file in File}


class Whole(enum.Enum):
    """What is not a configuration file, but holds some."""

    INIT_DATA = "init-data"


def check(files: Sequence[str], *, clock: Clock | None = None) -> list[Finding]:
    """What is wrong, or looks wrong, in configuration and init-data files.

    Files are checked alone, and then together if there is at most one of each kind. Owner and mode of a file
    are warnings here; in a guest they stop the start.

    Args:
        files: paths of aa.toml, cdh.toml, agent.toml or init-data; also as JSON, also under other names.
        clock: for the validity of certificates.
    """
    checker = _Checker(clock or SystemClock())
    for path in files:
        checker.file(path)
    checker.together()
    return checker.report.findings


def check_parts(parts: Mapping[str, str], *, clock: Clock | None = None) -> list[Finding]:
    """What is wrong, or looks wrong, in the files of one init-data document, by their names.

    Args:
        parts: file name to content.
        clock: for the validity of certificates.
    """
    checker = _Checker(clock or SystemClock())
    checker.parts("", parts)
    checker.together()
    return checker.report.findings


def recognise(path: str, tree: Table) -> File | Whole | None:
    """Which file this is: by its keys, or else by its name."""
    if isinstance(tree.get("data"), dict) and {"version", "algorithm"} & tree.keys():
        return Whole.INIT_DATA
    scores = {file: len(top & tree.keys()) for file, top in _TOP.items()}
    best = [file for file, score in scores.items() if score and score == max(scores.values())]
    return best[0] if len(best) == 1 else _by_name(path)


def _by_name(path: str) -> File | Whole | None:
    words = re.findall(r"[a-z]+", PurePath(path).stem.lower())
    name = "".join(words)
    if "initdata" in name:
        return Whole.INIT_DATA
    if "cdh" in words or "confidentialdatahub" in name:
        return File.CDH
    if "aa" in words or "attestationagent" in name:
        return File.AA
    return File.AGENT if "agent" in words else None


def _certificate_texts(key: Key, raw: object) -> list[str]:
    """The certificates in a key's value, also inside tables; none of a value that is refused anyway."""
    try:
        value = None if raw is None or key.contents else key.kind.read(raw)
    except kinds.Refused:
        return []
    if key.kind is kinds.PEM:
        return [str(value)] if value else []
    servers = value if isinstance(value, tuple) else ()
    return [one.extra_roots for one in servers if isinstance(one, KbsServer)]


class _Checker:
    """Findings of several files."""

    def __init__(self, clock: Clock) -> None:
        self.report = Report()
        self._now = datetime.fromtimestamp(clock.wall(), UTC)
        self._documents: dict[File, list[Document]] = {file: [] for file in File}
        self._inside: list[InitDataFile] = []
        self._contents: dict[str, str | None] = {}

    def file(self, path: str) -> None:
        """Read and sort one file."""
        content = self._read(path)
        if content is None:
            return
        document = self._parse(path, content)
        if document is None:
            return
        kind = recognise(path, document.tree)
        if kind is None:
            guess = next(
                (name for part in document.tree for file in File if (name := suggest_name(part, file))), ""
            )
            self.report.refuse(
                path,
                "",
                "cannot tell which file this is",
                f"did you mean {guess}?"
                if guess
                else "name it aa.toml, cdh.toml, agent.toml or initdata.toml",
            )
        elif isinstance(kind, File):
            self._add(kind, document)
        elif kind is Whole.INIT_DATA:
            if content.removeprefix(toml.BOM).lstrip().startswith(b"{"):
                self.report.refuse(path, "", "is JSON, and init-data is TOML only")
            self._init_data(document)
        else:
            assert_never(kind)

    def together(self) -> None:
        """Check the documents against the keys and each other."""
        if len(self._inside) <= 1 and all(len(documents) <= 1 for documents in self._documents.values()):
            aa, cdh, agent = (next(iter(self._documents[file]), None) for file in File)
            inside = next(iter(self._inside), None)
            self._assemble(Inputs(aa, cdh, agent, contents=self._contents, init_data=inside))
            return
        for document in self._documents[File.AA]:
            self._assemble(Inputs(aa=document))
        for document in self._documents[File.CDH]:
            self._assemble(Inputs(cdh=document))
        for document in self._documents[File.AGENT]:
            self._assemble(Inputs(agent=document, contents=self._contents))
        for inside in self._inside:
            self._assemble(Inputs(init_data=inside, contents=self._contents))

    def _assemble(self, inputs: Inputs) -> None:
        for finding in findings(inputs):
            self.report.add(finding)

    def _read(self, path: str) -> bytes | None:
        try:
            return read_trusted(plain(path), limits.CONFIG_MAX_FILE)
        except FileNotFoundError:
            self.report.refuse(path, "", "there is no such file")
            return None
        except AgentError as error:
            reason = error.detail.rpartition(": ")[2]
        try:
            # T-CONF-14: a FIFO or a device given by mistake must not hang the checker.
            if not Path(path).is_file():
                self.report.refuse(path, "", reason)
                return None
            with Path(path).open("rb") as file:
                content = file.read(limits.CONFIG_MAX_FILE + 1)
        except (OSError, ValueError):
            self.report.refuse(path, "", reason)
            return None
        self.report.warn(path, "", f"{reason}; in a guest this stops the start")
        return content

    def _parse(self, path: str, content: bytes, name: str = "") -> Document | None:
        try:
            return parse(path, content, name)
        except AgentError as error:
            self.report.refuse(path, "", error.detail.removeprefix(f"{shown_path(path)}: "))
            return None

    def _add(self, file: File, document: Document, *, inside: bool = False) -> None:
        if inside and file is File.AGENT:
            self._inside.append(InitDataFile(document, bound=True))
        else:
            self._documents[file].append(document)
        for key in keys_of(file):
            for text in _certificate_texts(key, find(document.tree, key.name)):
                self._certificates(document.path, key.name, text)
        named = cert_file(document) if file is File.AGENT else None
        if named is not None:
            self._contents[named] = self._cert_file(document.path, named)

    def _cert_file(self, path: str, named: str) -> str | None:
        if not Path(named).exists():
            self.report.warn(path, "kbs.cert_file", "cannot be read here, so it was not checked")
            return None
        content = self._read(named)
        if content is None:
            return None
        text = content.decode("utf-8", "replace")
        self._certificates(path, "kbs.cert_file", text)
        return text

    def _init_data(self, document: Document) -> None:
        """Init-data and the files inside it (cdh.md 3.7)."""
        tree, path = document.tree, document.path
        if tree.get("version") != _VERSION:
            self.report.refuse(path, "version", "is missing or unknown", f'version = "{_VERSION}"')
        if tree.get("algorithm") not in _ALGORITHMS:
            self.report.refuse(
                path, "algorithm", "is missing or unknown", f"one of: {', '.join(_ALGORITHMS)}"
            )
        parts = tree.get("data")
        if not isinstance(parts, dict):
            self.report.refuse(path, "data", "is missing", "a table with aa.toml, cdh.toml or policy.rego")
            return
        self.parts(path, parts)

    def parts(self, path: str, parts: Mapping[str, object]) -> None:
        """Check the files inside init-data.

        Args:
            path: of the init-data; empty: they are named by themselves.
            parts: file name to content.
        """
        for name, text in parts.items():
            key = f"data.{shown(name)}"
            if not isinstance(text, str):
                self.report.refuse(path, key, str(kinds.wrong_type("a string", text)), "put quotes around it")
            elif name not in PARTS:
                meant = next((part for part in PARTS if one_edit(name.lower(), part)), "")
                (self.report.error if meant else self.report.warn)(
                    path,
                    key,
                    "is read by nobody in the guest",
                    f"did you mean {meant}?" if meant else f"there are {', '.join(PARTS)}",
                )
            else:
                self._part(f"{path}[{name}]" if path else name, name, text)

    def _part(self, path: str, name: str, text: str) -> None:
        file = PARTS[name]
        if file is None:
            return
        document = self._parse(path, text.encode("utf-8", "surrogatepass"), name)
        if document is not None:
            self._add(file, document, inside=True)

    def _certificates(self, path: str, key: str, text: str) -> None:
        from cryptography import x509  # noqa: PLC0415  # only this command needs it, and it is heavy

        try:
            blocks = pem.certificates(text) if text.strip() else ()
        except ValueError:
            return  # reported with the key's other findings
        try:
            # The reader of the first use, whose word counts.
            if blocks:
                pem.anchor(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), text)
        except ValueError as error:
            self.report.error(path, key, str(error), "export it again as PEM")
            return
        for number, der in enumerate(blocks, start=1):
            which = f"certificate {number} " if len(blocks) > 1 else "the certificate "
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # AMD's have the serial number 0
                    found = x509.load_der_x509_certificate(der)
                begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
            except ValueError:
                self.report.error(path, key, f"{which}cannot be parsed", "export it again as PEM")
                continue
            self._validity(path, key, which, begins, ends)

    def _validity(self, path: str, key: str, which: str, begins: datetime, ends: datetime) -> None:
        if ends < self._now:
            self.report.error(path, key, f"{which}expired on {ends:%Y-%m-%d}", "renew it")
        elif begins > self._now:
            self.report.warn(path, key, f"{which}is not valid before {begins:%Y-%m-%d}", "check the clocks")
        elif ends - self._now < _SOON:
            self.report.warn(path, key, f"{which}expires on {ends:%Y-%m-%d}", "renew it in time")
