"""The drop-in contract: every point has its line, and every test named there exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POINTS = 27
"""Of kata_integration.md, section 9."""

TEXT = (ROOT / "docs" / "drop-in.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| (.*)$", TEXT.split("## Deliberate differences")[0], re.MULTILINE)
NAMED = re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", TEXT)


def test_no_point_is_left_out_or_there_twice() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, POINTS + 1))


def test_every_point_names_a_test() -> None:
    for number, line in ROWS:
        assert "::test_" in line, number


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > POINTS
    for path, name in NAMED:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
