"""Every guard names its line, and every line has its guard."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"\bT-[A-Z]+-\d+\b")


def in_code() -> set[str]:
    return {line for path in (ROOT / "agent").rglob("*.py") for line in LINE.findall(path.read_text())}


def in_document() -> list[str]:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    return re.findall(r"^\| (T-[A-Z]+-\d+) \|", text, re.MULTILINE)


def test_every_guard_in_the_code_is_in_the_document() -> None:
    assert in_code() - set(in_document()) == set()


def test_every_line_of_the_document_is_in_the_code() -> None:
    assert set(in_document()) - in_code() == set()


def test_no_line_is_there_twice() -> None:
    listed = in_document()
    assert len(listed) == len(set(listed))


def test_every_lesson_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    rows = re.findall(r"^\| (SR-\d+) \|.*\| `(\S+)::(\w+)` \|$", text, re.MULTILINE)
    assert len(rows) >= 12
    for requirement, path, name in rows:
        assert f"def {name}(" in (ROOT / path).read_text(), requirement
