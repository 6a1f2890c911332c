"""What counts as verified."""

from __future__ import annotations

import pytest

from agent.tee.evidence.verdict import VENDOR, Check, holds


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([], False),  # nothing was looked at
        ([True], True),
        ([True, True], True),
        ([True, False], False),
        ([True, None], False),  # what could not be looked at is not believed
        ([None], False),
    ],
)
def test_only_evidence_whose_every_check_passed_holds(results: list[bool | None], verdict: bool) -> None:
    assert holds(Check("check", each, "") for each in results) is verdict


def test_roots_are_sha256_and_each_vendors_own() -> None:
    groups = (VENDOR.amd, VENDOR.intel, VENDOR.nvidia)
    assert [len(group) for group in groups] == [3, 1, 1]
    assert {len(pin) for group in groups for pin in group} == {32}
    assert len(frozenset().union(*groups)) == 5
    assert VENDOR.certificates == ()  # pins only: no vendor's certificate is part of the program
