"""Each alert of docs/kubernetes/alerts.yaml fires when it should, and does not when it should not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.kubernetes.manifests import DOCUMENT, one, promtool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

RULES: list[dict[str, Any]] = [
    rule for group in one("alerts.yaml", "PrometheusRule")["spec"]["groups"] for rule in group["rules"]
]
POD = {"namespace": "shop", "pod": "pay-1"}
TARGET = {**POD, "job": "coco-agent", "instance": "127.0.0.1:8006"}

Series = dict[str, str]
"""A metric with its own labels, to its values minute by minute in promtool's notation (``_`` is none)."""

GROWS, STANDS, BORN = "0+1x60", "3x60", "_x20 1x40"
ATTEMPTS, SUCCESS = "coco_attestation_attempts_total", "coco_attestation_success_total"
FAILURE = 'coco_attestation_failure_total{reason="%s"}'
BROKER = 'coco_kbs_requests_total{endpoint="resource",result="%s"}'
DENIED = 'coco_kbs_resource_denials_total{reason="%s"}'
MISSED = 'coco_kbs_resource_failures_total{reason="%s"}'
DEVICE = 'coco_device_evidence_total{tee="nvidia",result="%s"}'
REQUEST = 'coco_requests_total{api="rest",verb="get_resource",result="%s"}'
CACHE = 'coco_resource_cache_requests_total{result="%s"}'
ENDS = 'coco_kbs_cert_expiry_timestamp_seconds{index="0"}'
DAY = 86400


@dataclass(frozen=True)
class Case:
    """When an alert fires and when not.

    Attributes:
        fires: sets of series, each of which makes it fire.
        quiet: sets of series that do not.
        labels: what the alert carries besides the target's labels and its severity.
        target: whether it has all labels of the target, or namespace and pod only.
        minute: when it is looked at.
    """

    fires: tuple[Series, ...]
    quiet: tuple[Series, ...]
    labels: dict[str, str] = field(default_factory=dict)
    target: bool = True
    minute: int = 30


CASES = {
    "CocoAgentDown": Case(fires=({"up": "1x20 0x40"},), quiet=({"up": "1x60"}, {"up": "1x27 0x40"})),
    "CocoTokenRefreshFailing": Case(
        fires=({ATTEMPTS: GROWS, SUCCESS: "1x60"}, {ATTEMPTS: "0x14 1+1x40", SUCCESS: "0x60"}),
        quiet=(
            {ATTEMPTS: GROWS, SUCCESS: "0+0.5x60"},  # some fail
            {ATTEMPTS: STANDS, SUCCESS: "2x60"},  # one failed long ago
            {ATTEMPTS: "0x60", SUCCESS: "0x60"},
        ),
    ),
    "CocoKeyBrokerUnreachable": Case(
        fires=tuple(
            {BROKER % code: values}
            for code in (
                "KBS_UNREACHABLE",
                "KBS_DNS_FAILED",
                "KBS_TIMEOUT",
                "KBS_TLS_FAILED",
                "KBS_NOT_TLS",
                "KBS_TLS_TIMEOUT",
            )
            for values in (GROWS, "_x21 4x40")
        ),
        quiet=(
            {BROKER % "ok": GROWS, BROKER % "KBS_TIMEOUT": GROWS},  # slow now and then
            {BROKER % "ok": STANDS, BROKER % "KBS_UNREACHABLE": STANDS},  # long ago
            {BROKER % "RESOURCE_DENIED": GROWS},  # a refusal is an answer
        ),
        target=False,
    ),
    "CocoKeyBrokerEndpointDown": Case(
        fires=({'coco_kbs_endpoint_health{index="1"}': "0x10 2x60"},),
        quiet=(
            {'coco_kbs_endpoint_health{index="1"}': "0x26 2x60"},
            {'coco_kbs_endpoint_health{index="1"}': "1x60"},
        ),
        labels={"index": "1"},
    ),
    "CocoKeyBrokerCertificateExpiring": Case(
        fires=({ENDS: f"{13 * DAY}x120"}, {ENDS: "60x120"}),
        quiet=({ENDS: f"{15 * DAY}x120"}, {}),
        labels={"index": "0"},
        minute=90,
    ),
    "CocoClockSkew": Case(
        fires=({"coco_clock_skew_seconds": "61x60"}, {"coco_clock_skew_seconds": "-3600x60"}),
        quiet=(
            {"coco_clock_skew_seconds": "NaN " * 40},  # not known
            {"coco_clock_skew_seconds": "-59x60"},
            {"coco_clock_skew_seconds": "0x27 90x30"},  # it may be set right at once
        ),
    ),
    "CocoDeviceMissing": Case(
        fires=({DEVICE % "DEVICE_MISSING": GROWS}, {DEVICE % "DEVICE_MISSING": BORN}),
        quiet=({DEVICE % "ok": GROWS}, {DEVICE % "DEVICE_MISSING": STANDS}, {DEVICE % "ok": BORN}),
        labels={"tee": "nvidia", "result": "DEVICE_MISSING"},
    ),
    "CocoExpectedDeviceMissing": Case(
        fires=({FAILURE % "DEVICE_MISSING": GROWS}, {FAILURE % "DEVICE_MISSING": BORN}),
        quiet=({FAILURE % "KBS_BUSY": GROWS}, {FAILURE % "DEVICE_MISSING": STANDS}),
        labels={"reason": "DEVICE_MISSING"},
    ),
    "CocoMeasurementRejected": Case(
        fires=({FAILURE % "MEASUREMENT_REJECTED": GROWS}, {FAILURE % "MEASUREMENT_REJECTED": BORN}),
        quiet=({FAILURE % "ATTESTATION_REJECTED": GROWS}, {FAILURE % "MEASUREMENT_REJECTED": STANDS}),
        labels={"reason": "MEASUREMENT_REJECTED"},
    ),
    "CocoSecretDenied": Case(
        fires=({DENIED % "RESOURCE_DENIED": GROWS}, {DENIED % "RESOURCE_DENIED": BORN}),
        quiet=(
            {DENIED % "RESOURCE_DENIED": STANDS},
            {MISSED % "RESOURCE_NOT_FOUND": GROWS},  # a typo
            {MISSED % "KBS_UNREACHABLE": BORN},  # an outage
        ),
        labels={"reason": "RESOURCE_DENIED"},
    ),
    "CocoCredentialsMissing": Case(
        fires=({'coco_credentials{state="failed"}': "1x60"},),
        quiet=(
            {'coco_credentials{state="failed"}': "0x60"},
            {'coco_credentials{state="pending"}': "1x60"},
            {'coco_credentials{state="failed"}': "0x25 1x60"},  # the next try may help
        ),
        labels={"state": "failed"},
    ),
    "CocoKeyServiceFailing": Case(
        fires=({REQUEST % "KMS_DENIED": GROWS}, {REQUEST % "KMS_DENIED": BORN}),
        quiet=({REQUEST % "KBS_BUSY": GROWS}, {REQUEST % "KMS_DENIED": STANDS}, {REQUEST % "ok": GROWS}),
        labels={"api": "rest", "verb": "get_resource", "result": "KMS_DENIED"},
    ),
    "CocoInternalError": Case(
        fires=({REQUEST % "INTERNAL": "_x50 1x60"}, {REQUEST % "INTERNAL": "1x50 2x60"}),
        quiet=({REQUEST % "INTERNAL": "1x200"}, {REQUEST % "RESOURCE_NOT_FOUND": "_x50 1x60"}),
        labels={"api": "rest", "verb": "get_resource", "result": "INTERNAL"},
        minute=80,
    ),
    "CocoAttestsTooOften": Case(
        fires=({SUCCESS: "0+4x60", BROKER % "ok": "0+4x60"}, {SUCCESS: "0+4x60", BROKER % "ok": "0+7x60"}),
        quiet=(
            {SUCCESS: "0+4x60", BROKER % "ok": "0+12x60"},  # a busy guest with short tokens
            {SUCCESS: GROWS, BROKER % "ok": GROWS},  # a quiet one
        ),
        target=False,
        minute=40,
    ),
    "CocoCacheServesStale": Case(
        fires=({CACHE % "stale": GROWS}, {CACHE % "stale": BORN}),
        quiet=({CACHE % "stale": STANDS}, {CACHE % "hit": GROWS}, {CACHE % "joined": BORN}),
        labels={"result": "stale"},
    ),
}


def labelled(name: str) -> str:
    """A series as the sidecar delivers it."""
    metric, _, own = name.rstrip("}").partition("{")
    labels = [own] if own else []
    return f"{metric}{{{','.join(labels + [f'{key}={json.dumps(value)}' for key, value in TARGET.items()])}}}"


def wanted(rule: dict[str, Any], case: Case) -> dict[str, Any]:
    """The alert as it has to be, words and all."""
    labels = {**(TARGET if case.target else POD), **case.labels, **rule["labels"]}
    words = dict(rule["annotations"])
    for key, value in labels.items():
        words = {name: text.replace(f"{{{{ $labels.{key} }}}}", value) for name, text in words.items()}
    assert "{{" not in "".join(words.values()), "the words use a label that the alert does not have"
    return {"exp_labels": labels, "exp_annotations": words}


def test_no_alert_is_untested_and_no_test_without_its_alert() -> None:
    assert [rule["alert"] for rule in RULES] == list(dict.fromkeys(rule["alert"] for rule in RULES))
    assert {rule["alert"] for rule in RULES} == set(CASES)
    assert all(case.fires and case.quiet for case in CASES.values())
    assert {rule["labels"]["severity"] for rule in RULES} == {"warning", "critical"}


def test_the_document_lists_them() -> None:
    listed = re.findall(r"^\| `(Coco\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert listed == [rule["alert"] for rule in RULES]


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(one("alerts.yaml", "PrometheusRule")["spec"]))
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(rules))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_it_fires_when_it_should_and_only_then(rule: dict[str, Any], tmp_path: Path) -> None:
    case, name = CASES[rule["alert"]], rule["alert"]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "one", "rules": [rule]}]}))
    expected = wanted(rule, case)
    tests = [
        {
            "name": f"{name} {'fires' if alerts else 'is quiet'}: {series}",
            "interval": "1m",
            "input_series": [{"series": labelled(key), "values": values} for key, values in series.items()],
            "alert_rule_test": [{"eval_time": f"{case.minute}m", "alertname": name, "exp_alerts": alerts}],
        }
        for several, alerts in ((case.fires, [expected]), (case.quiet, []))
        for series in several
    ]
    (tmp_path / "tests.json").write_text(json.dumps({"rule_files": ["rules.json"], "tests": tests}))
    promtool("test", "rules", str(tmp_path / "tests.json"))
