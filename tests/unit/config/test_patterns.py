"""Patterns of cache rules: whole paths, stars inside a segment, no surprises."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits, patterns
from agent.config.model import CacheRule

from .support import config, found


@pytest.mark.parametrize(
    ("pattern", "names", "fits"),
    [
        ("default/*/*", ("default", "key", "1"), True),
        ("default/*/*", ("defaults", "key", "1"), False),
        ("default/*/*", ("other", "key", "1"), False),
        ("*/key/1", ("any", "key", "1"), True),
        ("default/key/db-*", ("default", "key", "db-password"), True),
        ("default/key/db-*", ("default", "key", "xdb-password"), False),
        ("default/key/*-*-z", ("default", "key", "a-b-z"), True),
        ("default/key/*-*-z", ("default", "key", "a-z"), False),
        ("default/key/a.b", ("default", "key", "axb"), False),
        ("default/key/a*a", ("default", "key", "a"), False),
        ("Default/key/1", ("default", "key", "1"), False),
        ("kbs:///default/key/*", ("default", "key", "1"), True),
        ("kbs+resource:///default/key/*", ("default", "key", "1"), True),
    ],
)
def test_a_pattern_means_whole_paths(pattern: str, names: tuple[str, ...], fits: bool) -> None:
    assert patterns.parse(pattern).matches("resource", names) == fits


def test_another_plugin_needs_its_own_pattern() -> None:
    everything, plugin = patterns.parse("*/*/*"), patterns.parse("kbs+pkcs11:///*/*/*")
    assert not everything.matches("pkcs11", ("a", "b", "c"))
    assert plugin.matches("pkcs11", ("a", "b", "c"))
    assert not plugin.matches("resource", ("a", "b", "c"))
    assert not plugin.matches("pkcs11", ("a", "b"))


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "**", "default/*", "default/**/x", "default/**", "/default/*/*", "default/*/*/", "a//b",
        "a/b/?", "a/b/[x]", "a/b/{x,y}", "a/b/c?x=y", "a/b/%41", "kbs://host/a/b/c", "http:///a/b/c",
        "a/b/c d", "a/b/\n",
        "kbs+:///a", "kbs+pkcs11:///", "kbs+pkcs11:///a/", "a/b/" + "x" * limits.CACHE_PATTERN,
    ],
)  # fmt: skip
def test_what_looks_like_another_kind_of_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        patterns.parse(text)


@given(st.text("ab*-", min_size=1, max_size=12), st.text("ab-", min_size=1, max_size=12))
def test_it_means_what_the_obvious_regular_expression_means(segment: str, name: str) -> None:
    try:
        pattern = patterns.parse(f"x/y/{segment}")
    except ValueError:
        assert "**" in segment
        return
    obvious = "".join(".*" if char == "*" else re.escape(char) for char in segment)
    assert pattern.matches("resource", ("x", "y", name)) == bool(re.fullmatch(obvious, name))


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        pattern = patterns.parse(text)
    except ValueError:
        return
    pattern.matches("resource", ("a", "b", "c"))


def test_rules_are_read_in_order() -> None:
    second = '{ pattern = "a/*/*", ttl = 5, max_stale = 7 }'
    made = config(agent=f'[cache]\nrules = [{{ pattern = "a/b/c", ttl = 0 }}, {second}]\n')
    assert made.hub.cache.rules == (CacheRule("a/b/c", 0.0), CacheRule("a/*/*", 5.0, 7.0))
    assert str(made.hub.cache.rules[1]) == "a/*/* ttl 5 max_stale 7"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ('{ pattern = "a/*", ttl = 5 }', "2 segments"),
        ('{ pattern = "a/*/*" }', "no ttl"),
        ("{ ttl = 5 }", "no pattern"),
        ("{ pattern = 1, ttl = 5 }", "not a string"),
        ('{ pattern = "a/*/*", ttl = "5" }', "not a number"),
        ('{ pattern = "a/*/*", ttl = true }', "not a number"),
        ('{ pattern = "a/*/*", ttl = -1 }', "between 0"),
        ('{ pattern = "a/*/*", ttl = nan }', "between 0"),
        ('{ pattern = "a/*/*", ttl = 5, max_stale = inf }', "between 0"),
        ('{ pattern = "a/*/*", ttl = 0, max_stale = 5 }', "max_stale without a ttl"),
        ('{ pattern = "a/*/*", ttl = 5, stale = 5 }', "'stale'"),
        ('"a/*/*"', "a string"),
    ],
)
def test_a_rule_that_cannot_work_says_which_and_why(rule: str, says: str) -> None:
    (finding,) = found(agent=f'[cache]\nrules = [{{ pattern = "x/y/z", ttl = 1 }}, {rule}]\n')
    assert finding.blocking
    assert finding.key == "cache.rules"
    assert "entry 2" in finding.message
    assert says in finding.message


@pytest.mark.parametrize("value", ["-1", "61", "inf", "nan", '"3"', "true"])
def test_a_refusal_is_not_remembered_for_long(value: str) -> None:
    (finding,) = found(agent=f"[cache]\nnegative_ttl = {value}\n")
    assert finding.blocking


def test_the_control_socket_can_be_left_out_and_is_never_abstract() -> None:
    assert config(agent='[control]\nsocket = ""\n').control.socket == ""
    (finding,) = found(agent='[control]\nsocket = "unix://@control"\n')
    assert finding.blocking
    assert "abstract" in finding.message
