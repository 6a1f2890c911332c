"""A short run of the fuzzing harness on the readers; tests/fuzz/ runs for longer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.fuzz_evidence import attempt, campaign
from tests.fuzz.http_targets import HTTP_TARGETS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.targets import Target


@pytest.mark.parametrize("target", HTTP_TARGETS, ids=lambda target: target.name)
def test_nothing_but_a_refusal_leaves_a_reader(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert campaign(target, random.Random(target.name), runs=500) == 500  # noqa: S311 - to be repeated


@pytest.mark.parametrize("target", HTTP_TARGETS, ids=lambda target: target.name)
def test_inputs_to_start_from_are_read(target: Target) -> None:
    parse = target.load()
    assert parse is not None
    inputs = target.inputs()
    assert len(inputs) > 80
    assert all(attempt(parse, data) for data in inputs)
