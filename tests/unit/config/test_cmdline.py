"""The kernel command line and the environment, with the quotes that tools leave in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import cmdline
from agent.config.assemble import findings
from agent.config.model import Credential

from .support import BELOW, CDH, OTHER, PEM, URL, config, inputs

KBC = f"cc_kbc::{URL}"
NAME = "agent.aa_kbc_params"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("quiet a=1\tb=2\n", {"a": "1", "b": "2"}),
        ("a=1 a=2", {"a": "1"}),
        ("a=b=c =x", {"a": "b=c", "": "x"}),
        ('a="1 2" b=3', {"a": "1 2", "b": "3"}),
        ('"a=1 2" b=3', {"a": "1 2", "b": "3"}),
        ('a="" b=', {"a": "", "b": ""}),
        ('a="b=1 c=2" c=3', {"a": "b=1 c=2", "c": "3"}),
        ('a=x" y "z b=1', {"a": 'x" y "z', "b": "1"}),
        ("a='1' b='2 3'", {"a": "1", "b": "'2"}),
        ('a="1 b=2', {"a": '"1 b=2'}),
        ("a=1\u00a0b=2", {"a": "1\u00a0b=2"}),
    ],
)
def test_parameters(text: str, found: dict[str, str]) -> None:
    assert cmdline.parameters(text) == found


@pytest.mark.parametrize(
    "text",
    [f"{NAME}={KBC}", f'{NAME}="{KBC}"', f'"{NAME}={KBC}"', f"{NAME}='{KBC}'", f'{NAME}=cc_kbc::"{URL}"'],
)
@pytest.mark.parametrize(
    "before", ["", 'dyndbg="file a.c +p" ', f'other="x {NAME}=cc_kbc::{OTHER}" ', f'x="{NAME}=" ']
)
def test_the_broker_is_found_in_any_quotes(text: str, before: str) -> None:
    made = config(cmdline=f"quiet {before}{text} ro")
    assert made.attester.kbs.url == made.hub.kbs.url == URL
    assert not made.warnings


def test_what_stands_inside_another_value_counts_for_nothing() -> None:
    inside = f'other="x {NAME}={KBC} cdh.kbs_resources=kbs:///a/b/c::{BELOW}/x"'
    assert not config(cmdline=inside).origins


def test_a_quote_that_is_never_closed_is_told() -> None:
    told = findings(inputs(cmdline=f'quiet" {NAME}={KBC}'))
    assert any("never closed" in one.message for one in told)
    assert not config(cmdline=f'quiet" {NAME}={KBC}').attester.kbs.url


def test_resources_may_be_quoted() -> None:
    uri = "kbs:///default/a/b"
    for quoted in (f'"{uri}::{BELOW}/a,{uri}::{BELOW}/b"', f"'{uri}::{BELOW}/a,{uri}::{BELOW}/b'"):
        made = config(cmdline=f"cdh.kbs_resources={quoted}")
        assert made.hub.credentials == (Credential(f"{BELOW}/a", uri), Credential(f"{BELOW}/b", uri))


@pytest.mark.parametrize("quote", ['"', "'"])
def test_env_files_keep_their_quotes(quote: str) -> None:
    def env(**values: str) -> dict[str, str]:
        return {name: f" {quote}{value}{quote}\n" for name, value in values.items()}

    made = config(
        environ=env(
            AA_KBC_PARAMS=KBC,
            AA_SOCKET="unix:///run/x.sock",
            KBS_CERT=PEM,
            OFFLINE_FS_KBC_EXTRA_FILE_PATH="/a.json,/b.json",
            RUST_LOG="debug",
        )
    )
    assert made.attester.kbs.url == made.hub.kbs.url == URL
    assert made.hub.aa_socket == "unix:///run/x.sock"
    assert made.hub.kbs.extra_roots.strip() == PEM.strip()
    assert made.hub.offline_stores[-2:] == ("/a.json", "/b.json")
    assert made.observe.log_level == "debug"
    assert not any("ignored" in warning for warning in made.warnings)
    skip = config(cdh=CDH, environ=env(SKIP_SEALED_SECRET_VERIFICATION="true"))
    assert not skip.hub.sealed.skip_verification
    assert "ignored" in skip.warnings[0]


@pytest.mark.parametrize("text", ['""', "''", '"', "'", '" "', f'"{KBC}', f"{KBC}'", f"\"{KBC}'"])
def test_quotes_that_are_no_pair_stay(text: str) -> None:
    assert not config(environ={"AA_KBC_PARAMS": text}).attester.kbs.url


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\"'"), max_size=20).filter(
    lambda text: text == text.strip()
)


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), VALUES), max_size=5), st.booleans())
def test_what_is_quoted_is_read_back(pairs: list[tuple[str, str]], whole: bool) -> None:
    text = " ".join(f'"{name}={value}"' if whole else f'{name}="{value}"' for name, value in pairs)
    assert cmdline.parameters(text) == dict(reversed(pairs))


@given(st.text("ab=\"' \t", max_size=30) | st.text(max_size=30))
def test_any_text_is_taken_apart(text: str) -> None:
    words = list(cmdline.words(text))
    assert all(words)
    assert set(cmdline.parameters(text)) <= {word.partition("=")[0].removeprefix('"') for word in words}
    assert cmdline.unquoted(text) in text
