"""Heads of answers."""

from __future__ import annotations

import re

import pytest

from agent.http.server.exchange import Answer, encode_head, has_body

DATE = re.compile(rb"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n")


def head(answer: Answer, connection: str = "") -> list[bytes]:
    raw = encode_head(answer, connection)
    assert raw.endswith(b"\r\n\r\n")
    assert len(DATE.findall(raw)) == 1
    return DATE.sub(b"", raw).removesuffix(b"\r\n\r\n").split(b"\r\n")


def test_a_head_has_type_length_and_the_application_s_lines() -> None:
    answer = Answer(200, b"abc", "text/plain", (("Server", "s"), ("X", "y")))
    assert head(answer) == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain",
        b"Server: s",
        b"X: y",
        b"Content-Length: 3",
    ]


def test_the_connection_is_named_when_there_is_something_to_say() -> None:
    assert head(Answer(413, b""), "close")[-1] == b"Connection: close"


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_neither_body_nor_length(status: int) -> None:
    answer = Answer(status, b"abc")
    assert head(answer)[1:] == []
    assert not has_body(answer, "GET")


def test_head_gets_the_length_and_no_body() -> None:
    answer = Answer(200, b"abc")
    assert has_body(answer, "GET")
    assert not has_body(answer, "HEAD")
    assert b"Content-Length: 3" in head(answer)


def test_an_unknown_status_has_an_empty_reason() -> None:
    assert head(Answer(299, b""))[0] == b"HTTP/1.1 299 "
