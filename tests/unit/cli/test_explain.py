"""coco-agent explain."""

from __future__ import annotations

import json

import pytest

from agent.cli.main import main
from agent.errors import ErrorCode


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_it_prints_cause_and_next_step_of_every_code(
    code: ErrorCode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", code.name]) == 0
    shown = capsys.readouterr().out
    assert code.meaning.message in shown
    assert code.meaning.hint in shown
    assert f"HTTP {code.meaning.rest}" in shown


def test_case_and_dashes_do_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "resource-denied"]) == 0
    assert capsys.readouterr().out.startswith("RESOURCE_DENIED")


def test_a_typo_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "RESOURCE_DENYED"]) == 2
    assert "Did you mean RESOURCE_DENIED?" in capsys.readouterr().err


def test_the_list_has_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json"]) == 0
    assert {row["code"] for row in json.loads(capsys.readouterr().out)} == set(ErrorCode.__members__)
