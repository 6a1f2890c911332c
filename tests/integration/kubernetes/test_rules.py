"""The alerts ask for metrics, labels and values that the agent really has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from agent.errors import ErrorCode
from agent.hub.provision import State
from agent.observe.metrics import Metrics
from tests.integration.kubernetes.test_alerts import POD, RULES, TARGET

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration

OUTSIDE = {"up"}
"""Prometheus's own."""
SELECTOR = re.compile(r"\b([a-z_]+)\b(?:\{([^}]*)\})?(?=[\s\[)]|$)")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
WORDS = {"increase", "sum", "abs", "time", "by", "on", "and", "or", "unless", "offset", "namespace", "pod"}
CODES = {code.name for code in ErrorCode}


def exposed() -> dict[str, frozenset[str]]:
    """Every series the daemon can export, with its own labels: from its real registry."""
    metrics = Metrics()
    metrics.watch_token(lambda: 0.0)
    metrics.watch_clock(lambda: None)
    metrics.watch_credentials(lambda: dict.fromkeys((state.value for state in State), 0))
    # The registry has no public way to ask for instruments that have no series yet.
    names = metrics.registry._names_to_collectors
    return {name: frozenset(collector._labelnames) for name, collector in names.items()}  # type: ignore[attr-defined]


def selectors(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Every metric asked for, with its matchers: label to operator and value."""
    for name, inside in SELECTOR.findall(expression):
        if name not in WORDS and not re.fullmatch(r"\d*[smhd]", name):
            yield name, {label: (how, value) for label, how, value in MATCHER.findall(inside)}


USED = [(rule["alert"], name, asked) for rule in RULES for name, asked in selectors(rule["expr"])]


def test_the_reader_of_expressions_finds_what_is_there() -> None:
    assert {rule["alert"] for rule in RULES} == {alert for alert, _, _ in USED}
    assert len(USED) >= sum(rule["expr"].count("coco_") for rule in RULES)
    assert {name for _, name, _ in USED} >= {"up", "coco_clock_skew_seconds", "coco_requests_total"}


@pytest.mark.parametrize(("alert", "name", "asked"), USED)
def test_metric_and_labels_are_the_agents(alert: str, name: str, asked: dict[str, tuple[str, str]]) -> None:
    known = exposed()
    own = set() if name in OUTSIDE else known[name]
    assert set(asked) <= {*own, *TARGET}, alert


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_it_groups_by_labels_of_the_pod(rule: dict[str, str]) -> None:
    for labels in GROUPING.findall(rule["expr"]):
        assert {label.strip() for label in labels.split(",")} <= set(POD)


def test_values_are_codes_of_the_agent() -> None:
    asked = [
        (how, value)
        for _, _, labels in USED
        for label, (how, value) in labels.items()
        if label in {"reason", "result"}
    ]
    assert len(asked) >= 8
    for how, value in asked:
        if how == "=~":
            assert any(re.fullmatch(value, code) for code in CODES), value
        else:
            assert value in CODES | {"ok", "stale"}, value


def test_every_way_not_to_reach_the_broker_is_listed() -> None:
    from agent.kbs.endpoints import ELSEWHERE  # noqa: PLC0415

    (value,) = {
        labels["result"][1]
        for alert, _, labels in USED
        if alert == "CocoKeyBrokerUnreachable" and labels.get("result", ("",))[0] == "=~"
    }
    listed = {code for code in CODES if re.fullmatch(value, code)}
    # A busy broker, and one whose verifier is slow, were reached.
    assert listed == {code.name for code in ELSEWHERE} - {"KBS_BUSY", "APPRAISAL_TIMEOUT"}


def test_the_state_of_credentials_is_one() -> None:
    (state,) = {labels["state"][1] for _, _, labels in USED if "state" in labels}
    assert State(state) is State.FAILED
