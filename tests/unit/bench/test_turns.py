"""Figures of two checkouts, side by side."""

from __future__ import annotations

import pytest

from tests.bench.turns import Row, rows


def test_rounds_are_compared_with_themselves() -> None:
    pairs: list[tuple[dict[str, float], dict[str, float]]] = [
        ({"listen_s": 1.0}, {"listen_s": 2.0}),
        ({"listen_s": 9.0}, {"listen_s": 9.0}),  # the machine was slow: for both
        ({"listen_s": 1.0}, {"listen_s": 1.25}),
    ]
    (row,) = rows(pairs)
    assert row == Row("listen_s", [1.0, 9.0, 1.0], [2.0, 9.0, 1.25])
    assert row.ratios == [0.5, 1.0, 0.8]
    assert row.line().split() == ["listen_s", "1", "2", "0.800", "0.50", "to", "1.00"]


def test_a_figure_that_one_side_lacks_is_an_error() -> None:
    with pytest.raises(KeyError):
        rows([({"listen_s": 1.0}, {})])


def test_nothing_is_divided_by_nothing() -> None:
    assert Row("pss_mb", [0.0], [0.0]).line().split() == ["pss_mb", "0", "0"]
