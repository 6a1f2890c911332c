"""What a launcher says to the daemon, byte for byte and bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import handover
from agent.config import keys
from agent.handover import Wanted, decode, encode

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
VARIABLES = st.dictionaries(st.sampled_from(handover.ENVIRONMENT), WORDS)


@given(WORDS, WORDS, VARIABLES, st.lists(WORDS, max_size=8))
def test_what_is_said_is_what_is_heard(
    folder: str, network: str, environ: dict[str, str], arguments: list[str]
) -> None:
    said = Wanted("api-server-rest", folder, network, environ, arguments)
    heard = Wanted.decode(decode(said.encode()))
    assert (heard.program, heard.folder, heard.network) == ("api-server-rest", folder, network)
    assert (heard.environ, heard.arguments) == (environ, arguments)


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_and_nothing_else_escapes(message: bytes) -> None:
    with pytest.raises(ValueError):
        Wanted.decode(decode(message))


@given(st.integers(min_value=-3, max_value=9), st.lists(WORDS, max_size=4))
def test_a_count_that_is_not_right_is_refused_or_leaves_arguments(count: int, rest: list[str]) -> None:
    fields: tuple[bytes | str, ...] = (
        "open",
        handover.PROTOCOL,
        "api-server-rest",
        "/",
        "",
        str(count),
        *rest,
    )
    try:
        heard = Wanted.decode(decode(encode(*fields)))
    except ValueError:
        return
    assert len(heard.environ) <= count
    assert set(heard.environ) <= set(handover.ENVIRONMENT)


def test_another_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="another protocol"):
        Wanted.decode(decode(encode("open", "coco-launcher-2", "api-server-rest", "/", "", "0")))


def test_variables_that_configure_nothing_stay_with_the_launcher() -> None:
    message = encode("open", handover.PROTOCOL, "api-server-rest", "/", "", "1", "LD_PRELOAD=/tmp/x.so")
    with pytest.raises(ValueError, match="other variables"):
        Wanted.decode(decode(message))


def test_every_variable_that_configures_a_role_is_handed_over() -> None:
    assert set(handover.ENVIRONMENT) == {place.name for place in keys.ENVIRONMENT}


def test_this_process_names_its_network() -> None:
    device, _, inode = handover.network_namespace().partition(":")
    assert device.isdigit()
    assert inode.isdigit()
