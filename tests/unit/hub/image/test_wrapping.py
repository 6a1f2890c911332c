"""Which wrapped key is tried, in which order, and what is said when none works."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.image.wrapping import (
    JWE,
    OURS,
    PROVIDER,
    Unwrapper,
    Wrapper,
    Wrapping,
    describe,
    offline,
    read_output,
    remote,
    wrappings,
)
from agent.hub.image_keys import build_protocol_input
from agent.hub.image_packets import build_protocol_output
from agent.secret import Secret
from tests.unit.hub.image.support import KEK, KID, PRIVATE
from tests.unit.hub.support import failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OWNER = ec.generate_private_key(ec.SECP256R1())


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def both() -> dict[str, str]:
    return Wrapper(Secret(KEK), KID, [OWNER.public_key()]).annotations(Secret(PRIVATE))


def offered(annotations: dict[str, str]) -> tuple[Wrapping, ...]:
    return wrappings(tuple(annotations.items()))


def test_our_provider_first_then_others_by_name_then_the_rest() -> None:
    entries = {
        JWE: b64(b"1"),
        PROVIDER + "zz": b64(b"2"),
        PROVIDER + "aa": b64(b"3"),
        OURS: f"{b64(b'4')},{b64(b'5')}",
        "org.opencontainers.image.enc.pubopts": "no key at all",
    }
    assert [way.content for way in offered(entries)] == [b"4", b"5", b"3", b"2", b"1"]


@pytest.mark.parametrize("value", ["?", "AAAA,", ",".join(["AAAA"] * (limits.IMAGE_WRAPPINGS_MAX + 1))])
def test_wrapped_keys_that_are_none_or_too_many(value: str) -> None:
    assert failure(lambda: offered({OURS: value})) is ErrorCode.IMAGE_LAYOUT_INVALID


async def test_either_recipient_opens_it() -> None:
    ways = offered(both())
    by_key = Unwrapper(offline(Secret(KEK)), None)
    by_owner = Unwrapper(None, OWNER)
    for unwrapper in (by_key, by_owner):
        assert (await unwrapper.private_options(ways)).reveal() == PRIVATE
    assert [describe(way) for way in ways] == [KID, "ECDH-ES+A256KW"]


async def refusal(unwrapper: Unwrapper, ways: tuple[Wrapping, ...]) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await unwrapper.private_options(ways)
    return caught.value


async def test_a_later_entry_is_tried_when_an_earlier_one_fails() -> None:
    good = both()[OURS]
    bad = b64(b'{"kid":"kbs:///a/b/c"}')
    ways = offered({OURS: f"{bad},{good}"})
    assert (await Unwrapper(offline(Secret(KEK)), None).private_options(ways)).reveal() == PRIVATE


async def test_the_reason_is_that_of_the_last_try() -> None:
    error = await refusal(Unwrapper(offline(Secret(bytes(32))), None), offered(both()))
    assert error.code is ErrorCode.IMAGE_KEY_UNWRAP_FAILED
    error = await refusal(Unwrapper(offline(Secret(KEK)), None), offered({JWE: both()[JWE]}))
    assert error.code is ErrorCode.IMAGE_KEY_UNSUPPORTED
    assert error.detail == "the key is wrapped for jwe; tried provider"
    assert (await refusal(Unwrapper(None, OWNER), ())).detail == "the key is wrapped for nobody; tried jwe"


async def test_a_broker_that_is_away_ends_the_search() -> None:
    asked = []

    async def away(packet: bytes) -> Secret:
        asked.append(packet)
        raise AgentError(ErrorCode.KBS_UNREACHABLE, "away")

    good = both()[OURS]
    error = await refusal(Unwrapper(away, None), offered({OURS: f"{good},{good}"}))
    assert error.code is ErrorCode.KBS_UNREACHABLE
    assert len(asked) == 1


def provider(answer: bytes) -> Callable[[bytes], Awaitable[Secret]]:
    async def unwrap_key(protocol_input: bytes) -> Secret:
        assert protocol_input == build_protocol_input(b"packet")
        return Secret(answer)

    return unwrap_key


async def test_a_key_provider_s_answer_in_both_forms() -> None:
    go = json.dumps({"keyunwrapresults": {"optsdata": b64(PRIVATE)}, "keywrapresults": None}).encode()
    for answer in (build_protocol_output(PRIVATE), go):
        assert (await remote(provider(answer))(b"packet")).reveal() == PRIVATE


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b'{"keyunwrapresults":{"optsdata":[256]}}', b'{"keyunwrapresults":{"optsdata":"?"}}',
     b'{"keyunwrapresults":{"optsdata":[-1]}}', b'{"keyunwrapresults":{"optsdata":null}}'],
)  # fmt: skip
def test_another_answer_is_refused(answer: bytes) -> None:
    assert failure(lambda: read_output(Secret(answer))) is ErrorCode.IMAGE_KEY_MALFORMED


def test_what_cannot_be_read_is_described_as_that() -> None:
    assert describe(Wrapping("jwe", b"{}")) == "(unreadable)"
    assert describe(Wrapping("provider.x", b"\xff")) == "(unreadable)"
    aliyun = b'{"provider":"aliyun","kid":"key-id","wrapped_data":""}'
    assert describe(Wrapping("provider.x", aliyun)) == "aliyun: key-id"
