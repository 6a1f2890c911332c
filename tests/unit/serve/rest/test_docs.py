"""docs/api.md names every route there is, and its statuses are those of the codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import ErrorCode
from agent.serve.rest import forwarding
from agent.serve.rest.routes import EXACT, ROOTS

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "api.md").read_text()
PATHS = [
    *EXACT,
    *(f"{root}{path}" for root, below in ROOTS.items() for path in [*below.exact, *below.below]),
]


@pytest.mark.parametrize("path", PATHS)
def test_every_route_is_described_with_a_curl_line(path: str) -> None:
    assert f"{path}`" in TEXT or f"{path}/<" in TEXT
    assert f"http://127.0.0.1:8006{path}" in TEXT


@pytest.mark.parametrize("code", list(ErrorCode), ids=lambda code: code.name)
def test_every_status_is_described(code: ErrorCode) -> None:
    assert str(code.meaning.rest) in TEXT


def test_every_header_that_is_refused_is_listed() -> None:
    listed = TEXT.lower()
    known = [*forwarding._NAMES, *forwarding._ENDINGS, *forwarding._BEGINNINGS, forwarding._WORD]
    assert [name for name in known if f"`{name}`" not in listed] == []
