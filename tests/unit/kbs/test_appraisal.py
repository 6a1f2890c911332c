"""What a token says about the guest, and nothing that it merely holds."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kbs.appraisal import doubts
from agent.kbs.messages import b64url_encode
from tests.unit.kbs import PROPERTY

SHOWN = re.compile(r"[a-z]{1,16}[0-9]{1,3} [a-z]+(?: \([-a-z0-9, ]+\))?(?:, [a-z].*)?")


def token(payload: Any) -> str:
    return ".".join(b64url_encode(part) for part in (b"{}", json.dumps(payload).encode(), b"signature"))


def submods(**appraisals: tuple[str, dict[str, int]]) -> str:
    return token(
        {
            "submods": {
                name: {"ear.status": status, "ear.trustworthiness-vector": vector}
                for name, (status, vector) in appraisals.items()
            }
        }
    )


@pytest.mark.parametrize(
    ("jwt", "said"),
    [
        (submods(cpu0=("affirming", {"executables": 3})), ""),
        (
            submods(cpu0=("contraindicated", {"hardware": 97, "executables": 33, "configuration": 2})),
            "cpu0 contraindicated (executables 33, hardware 97)",
        ),
        (
            submods(gpu1=("warning", {"hardware": 32}), cpu0=("affirming", {}), gpu0=("none", {})),
            "gpu0 none, gpu1 warning (hardware 32)",
        ),
        (submods(cpu0=("warning", {"executables": -1, "made-up": 99})), "cpu0 warning (executables -1)"),
        (submods(cpu0=("warning", {"executables": 4000})), "cpu0 warning"),
        (submods(cpu0=("c4n4ry", {"executables": 33})), ""),
        (submods(**{"cpu0\nERROR c4n4ry": ("warning", {})}), ""),
        (token({"tcb-status": "UpToDate"}), ""),
        (token([]), ""),
        (token({"submods": {"cpu0": 5}}), ""),
        ("", ""),
        ("a.b", ""),
        ("a.\u00fc.c", ""),
    ],
)
def test_what_is_said(jwt: str, said: str) -> None:
    assert doubts(jwt) == said


@PROPERTY
@given(
    st.text(max_size=40)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(token)
)
def test_any_token(jwt: str) -> None:
    assert doubts(jwt) == ""


@PROPERTY
@given(
    st.dictionaries(
        st.text(max_size=8) | st.just("cpu0"),
        st.tuples(
            st.text(max_size=8) | st.sampled_from(["warning", "none"]),
            st.dictionaries(st.text(max_size=8) | st.just("hardware"), st.integers(-(2**62), 2**62)),
        ),
    )
)
def test_only_words_of_closed_sets_are_shown(appraisals: dict[str, tuple[str, dict[str, int]]]) -> None:
    said = doubts(submods(**appraisals))
    assert said == "" or SHOWN.fullmatch(said)
