"""A short run of the fuzzing harness, the same inputs each time; tests/fuzz/ runs for longer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from agent.errors import AgentError, ErrorCode
from tests.fuzz.fuzz_evidence import attempt, campaign, main
from tests.fuzz.targets import TARGETS, Target

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_only_the_declared_error_leaves_a_parser(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if target.load() is None:
        pytest.skip(f"no {target.module} in this release")
    assert campaign(target, random.Random(target.name), runs=200) == 200  # noqa: S311 - to be repeated


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_inputs_to_start_from_are_valid(target: Target) -> None:
    parse = target.load()
    if parse is None:
        pytest.skip(f"no {target.module} in this release")
    taken = [attempt(parse, data) for data in target.inputs()]
    assert all(taken) or target.name in {"cca", "tpm-json", "tpm-signature"}  # those are beginnings only


def test_an_error_that_is_not_declared_is_found_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def broken(data: bytes) -> object:
        raise IndexError(data[:1])

    with pytest.raises(IndexError):
        campaign(Target("broken", "snp", lambda _: broken), random.Random(1), runs=1)  # noqa: S311
    assert [each.name[:13] for each in tmp_path.iterdir()] == ["crash-broken-"]


def test_another_code_is_not_the_declared_one() -> None:
    def wrong(data: bytes) -> object:
        raise AgentError(ErrorCode.INTERNAL, "")

    with pytest.raises(AgentError):
        attempt(wrong, b"")


def test_the_command_line_runs_and_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input").write_bytes(b"")
    main(["--target", "snp-report", "--replay", str(tmp_path / "input")])
    assert capsys.readouterr().out == "snp-report: refused\n"
