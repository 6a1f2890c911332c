from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serve.ttrpc.codec import Decoder, Frame, encode_response, parse_request
from tests.bench import material
from tests.bench.calls import HEADER, RESPONSE, answer_of, envelope, field
from tests.bench.children import BenchError
from tests.bench.figures import BY_KEY, FIGURES, Figures, median_ratio, percentile, rounded, table
from tests.bench.plan import choose
from tests.bench.rest import parse

STABLE = (
    "rest_cached_c1_p50_ms",
    "rest_cached_c16_rps",
    "rest_warm_c1_p50_ms",
    "rest_cold_ms",
    "cold_1000_attestations",
    "boot_attestations",
    "boot_s",
    "boot_ratio_vs_upstream_model",
    "boot_ratio_64",
    "loop_gap_ms",
    "listen_s",
    "rss_mb",
    "pss_mb",
    "ttrpc_cached_c1_p50_ms",
    "layer_decrypt_mb_s",
    "layer_decrypt_vs_openssl",
    "layer_decrypt_peak_mb",
)


@pytest.mark.parametrize("key", STABLE)
def test_keys_that_others_read_are_there(key: str) -> None:
    assert key in BY_KEY


def test_every_key_is_there_once() -> None:
    assert len(BY_KEY) == len(FIGURES)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(KeyError):
        Figures().put("rest_cashed_c1_p50_ms", 1.0)


def test_bench_json_is_flat_and_in_the_table_s_order() -> None:
    figures = Figures()
    figures.put("rss_mb", 55.4321)
    figures.put("listen_s", 0.27654)
    flat = json.loads(json.dumps(figures.flat()))
    assert list(flat.items()) == [("listen_s", 0.277), ("rss_mb", 55.4)]


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("rest_cached_c16_rps", 3999, "OVER"),
        ("rest_cached_c16_rps", 4000, "ok"),
        ("rest_cached_c1_p50_ms", 1.01, "OVER"),
        ("boot_ratio_vs_upstream_model", 10.0, "ok"),
        ("boot_ratio_64", 3.9, "OVER"),
        ("loop_gap_ms", 50.0, "ok"),
    ],
)
def test_the_table_judges_by_the_budget(key: str, value: float, verdict: str) -> None:
    row = table({key: value}).splitlines()[1]
    assert row.split()[0] == key
    assert verdict in row


@pytest.mark.parametrize(
    ("value", "kept"), [(0.0012345, 0.00123), (12.345, 12.3), (4711.9, 4712), (7, 7), (0.0, 0.0)]
)
def test_figures_are_rounded_to_what_can_be_trusted(value: float, kept: float) -> None:
    assert rounded(value) == kept


def test_ratios_are_taken_pair_by_pair() -> None:
    # A machine that slows down halfway changes both sides of a pair, and not the ratio.
    assert median_ratio([(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)]) == 10.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values(values: list[float], share: float) -> None:
    assert percentile(sorted(values), share) in values


def test_wrk_s_summary() -> None:
    line = '{"requests":20000,"seconds":2.0,"p50_us":150.0,"p99_us":900.0,"errors":0}'
    assert parse(f"Running 2s test\n\n{line}\n") == {
        "requests": 20000,
        "rps": 10000.0,
        "p50_ms": 0.15,
        "p99_ms": 0.9,
    }


@pytest.mark.parametrize(
    "output",
    [
        "unable to connect",
        '{"requests":9,"seconds":2.0,"p50_us":1.0,"p99_us":1.0,"errors":1}',
        '{"requests":0,"seconds":2.0,"p50_us":0.0,"p99_us":0.0,"errors":0}',
    ],
)
def test_a_load_with_failures_is_no_figure(output: str) -> None:
    with pytest.raises(BenchError):
        parse(output)


@pytest.mark.parametrize("verb", ["resource", "unseal", "unwrap"])
def test_the_load_generator_speaks_the_codec_s_ttrpc(verb: str) -> None:
    step = material.Step(verb, b"q" * 300, b"a" * 200)
    body = envelope(step)
    (event,) = Decoder().feed(HEADER.pack(len(body), 1, 1, 0) + body)
    assert isinstance(event, Frame)
    assert parse_request(event.body).payload == field(1, step.ask)
    (answer,) = Decoder().feed(encode_response(1, field(1, step.answer)))
    assert isinstance(answer, Frame)
    assert (answer.kind, answer.body) == (RESPONSE, answer_of(step))


def test_the_boot_is_what_it_says() -> None:
    held, steps = material.make()
    verbs = [step.verb for step in steps]
    assert {verb: verbs.count(verb) for verb in set(verbs)} == {"unseal": 20, "unwrap": 5, "resource": 10}
    assert material.UPSTREAM_ATTESTATIONS == 55
    assert len(held) == 20 + 5 + 10 + 2 + len(material.WARM)  # and one signing key, one hot resource


def test_ci_measures_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    long = choose()
    monkeypatch.setenv("CI", "true")
    assert choose().load_s < long.load_s
    assert choose().boots % 2 == 1
