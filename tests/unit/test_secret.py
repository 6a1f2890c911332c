from __future__ import annotations

import copy
import logging
import pickle
import traceback

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.http.client.exchange import Request
from agent.http.url import Url
from agent.hub.image_packets import ServiceKey
from agent.hub.kms import sigv4
from agent.hub.kms.http import KmsAnswer
from agent.kbs import transport
from agent.secret import Secret

CANARY = b"c4n4ry-plaintext"
KBS = Url.parse("http://kbs")


def test_a_secret_does_not_print() -> None:
    secret = Secret(CANARY)
    nested = {"key": [secret]}
    texts = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>20}",
        "%s" % secret,  # noqa: UP031 - old code does this
        format(secret, ">5"),
        str(nested),
    ]
    assert all("***" in text for text in texts)
    assert not any("c4n4ry" in text for text in texts)


def test_a_secret_does_not_show_in_logs_or_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(CANARY)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("coco.test").debug("held %s and %r", secret, secret)
    try:
        raise ValueError(secret)
    except ValueError:
        text = traceback.format_exc()
    assert "c4n4ry" not in caplog.text + text


@pytest.mark.parametrize(
    "serialise", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_a_secret_is_not_serialised_or_copied_by_accident(serialise: object) -> None:
    with pytest.raises(TypeError):
        serialise(Secret(CANARY))  # type: ignore[operator]


@given(st.binary(max_size=64))
def test_what_goes_in_comes_out(value: bytes) -> None:
    assert Secret(value).reveal() == value
    assert Secret(bytearray(value)) == Secret(memoryview(value))
    assert len(Secret(value)) == len(value)


@given(st.binary(min_size=1, max_size=64))
def test_a_wiped_secret_is_empty(value: bytes) -> None:
    secret = Secret(value)
    held = secret._value
    secret.wipe()
    assert secret.reveal() == b""
    assert not held
    secret.wipe()


def test_comparison_takes_only_secrets() -> None:
    assert Secret(b"a") != b"a"
    assert Secret(b"a") != Secret(b"ab")
    with pytest.raises(TypeError):
        hash(Secret(b"a"))


def test_the_source_can_be_changed_afterwards() -> None:
    source = bytearray(b"key")
    secret = Secret(source)
    source[:] = b"xxx"
    assert secret.reveal() == b"key"


@pytest.mark.parametrize(
    "holder",
    [
        transport.Answer(200, "application/json", CANARY, cookies=(CANARY.decode(),)),
        transport.Call("e", "GET", KBS, 1, {"Authorization": CANARY.decode()}, CANARY),
        Request("GET", KBS, lambda _: 0, {"Authorization": CANARY.decode()}, CANARY),
        KmsAnswer(200, CANARY),
        sigv4.Key("id", CANARY.decode(), CANARY.decode()),
        ServiceKey("aws", {"x": msgspec.Raw(CANARY)}, "key", CANARY, {"y": msgspec.Raw(CANARY)}),
    ],
    ids=lambda holder: type(holder).__qualname__,
)
def test_what_carries_secrets_prints_without_them(holder: msgspec.Struct) -> None:
    for shown in (repr(holder), str(holder), f"{holder}"):
        assert CANARY.decode() not in shown
        assert shown.startswith(f"{type(holder).__name__}(")
        assert "=" in shown
