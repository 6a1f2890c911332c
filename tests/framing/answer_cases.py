"""Answers and what a client has to understand. The connection ends behind each."""

from __future__ import annotations

from typing import Final

from tests.framing.cases import OK, Case, lines, refused

_MORE: Final = ("200", b"next")


def _answer(*fields: bytes, body: bytes = b"", start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return start + b"\r\n" + lines(*fields) + body


def _taken(name: str, data: bytes, body: bytes = b"abc", status: str = "200") -> Case:
    return Case(name, data + OK, ((status, body), _MORE), "idle")


def _last(name: str, data: bytes, body: bytes = b"abc", status: str = "200") -> Case:
    """It ends the connection: what follows is not read."""
    return Case(name, data, ((status, body),), "closed")


def _line(name: str, start: bytes) -> Case:
    return refused(f"line: {name}", _answer(b"Content-Length: 0", start=start))


def _chunks(name: str, body: bytes) -> Case:
    return refused(f"chunks: {name}", _answer(b"Transfer-Encoding: chunked", body=body))


def _interims(*statuses: bytes) -> bytes:
    return b"".join(b"HTTP/1.1 " + status + b" x\r\n\r\n" for status in statuses)


_CL3: Final = b"Content-Length: 3"
_TE: Final = b"Transfer-Encoding: chunked"
_ABC: Final = b"3\r\nabc\r\n0\r\n\r\n"
_INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

BODIES: Final = (
    _taken("length: plain", _answer(_CL3, body=b"abc")),
    _taken("length: nought", _answer(b"Content-Length: 0"), b""),
    _last("end of connection", _answer(body=b"abc")),
    _last("end of connection, empty", _answer(), b""),
    _last("end of connection holds an answer", _answer(body=OK), OK),
    _last("end of connection, HTTP/1.0", _answer(start=b"HTTP/1.0 200 OK", body=b"abc")),
    _taken("coding: chunked", _answer(_TE, body=_ABC)),
    _taken("coding: other case", _answer(b"TRANSFER-ENCODING: Chunked", body=_ABC)),
    _taken("coding: extension and trailer", _answer(_TE, body=b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n")),
    Case("length: broken off", _answer(b"Content-Length: 4", body=b"abc"), (), "unfinished"),
    Case("chunks: broken off", _answer(_TE, body=b"3\r\nabc\r\n"), (), "unfinished"),
    Case("head: broken off", b"HTTP/1.1 200 OK\r\nContent-Le", (), "unfinished"),
    refused("length: twice", _answer(_CL3, _CL3, body=b"abc")),
    refused("length: list", _answer(b"Content-Length: 3, 3", body=b"abc")),
    refused("length: plus", _answer(b"Content-Length: +3", body=b"abc")),
    refused("length: minus", _answer(b"Content-Length: -3", body=b"abc")),
    refused("length: empty", _answer(b"Content-Length:", body=b"abc")),
    refused("length: 2^64 + 3", _answer(b"Content-Length: 18446744073709551619", body=b"abc")),
    refused("length: folded", _answer(b"Content-Length: 1\r\n 0", body=b"0123456789")),
    refused("coding with a length", _answer(_TE, _CL3, body=_ABC)),
    refused("coding: twice", _answer(_TE, _TE, body=_ABC)),
    refused("coding: gzip, chunked", _answer(b"Transfer-Encoding: gzip, chunked", body=_ABC)),
    refused("coding: gzip", _answer(b"Transfer-Encoding: gzip", body=b"abc")),
    refused("coding: identity", _answer(b"Transfer-Encoding: identity", body=b"abc")),
    refused("coding: xchunked", _answer(b"Transfer-Encoding: xchunked", body=_ABC)),
    refused("coding: vertical tab", _answer(b"Transfer-Encoding: \x0bchunked", body=_ABC)),
    refused("coding: empty", _answer(b"Transfer-Encoding:", body=b"abc")),
    refused("coding: HTTP/1.0", _answer(_TE, start=b"HTTP/1.0 200 OK", body=_ABC)),
    _chunks("hexadecimal prefix", b"0x3\r\nabc\r\n0\r\n\r\n"),
    _chunks("space behind the size", b"3 \r\nabc\r\n0\r\n\r\n"),
    _chunks("size ends with LF", b"3\nabc\r\n0\r\n\r\n"),
    _chunks("data longer than their size", b"3\r\nabcd\r\n0\r\n\r\n"),
    _chunks("2^64 + 3", b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    _chunks("trailer is a length", b"0\r\nContent-Length: 5\r\n\r\n"),
    _chunks("trailers above the bound", b"0\r\n" + b"X: y\r\n" * 3000 + b"\r\n"),
    _chunks("end with LF", b"3\r\nabc\r\n0\r\n\n"),
)

STATUSES: Final = (
    _taken("204", _answer(start=b"HTTP/1.1 204 No Content"), b"", "204"),
    _taken("204 with a length of nought", _answer(b"Content-Length: 0", start=b"HTTP/1.1 204 x"), b"", "204"),
    _last("204 with a length", _answer(_CL3, start=b"HTTP/1.1 204 x", body=b"abc"), b"", "204"),
    _last("204 with chunks", _answer(_TE, start=b"HTTP/1.1 204 x", body=_ABC), b"", "204"),
    _taken("304", _answer(start=b"HTTP/1.1 304 Not Modified"), b"", "304"),
    _last("304 with the length of what it stands for", _answer(_CL3, start=b"HTTP/1.1 304 x"), b"", "304"),
    _taken("205", _answer(b"Content-Length: 0", start=b"HTTP/1.1 205 x"), b"", "205"),
    _taken("404", _answer(_CL3, start=b"HTTP/1.1 404 Not Found", body=b"abc"), status="404"),
    _taken("999", _answer(_CL3, start=b"HTTP/1.1 999 x", body=b"abc"), status="999"),
    _taken("100 ahead", _INTERIM + _answer(_CL3, body=b"abc")),
    _taken("100 with a field ahead", b"HTTP/1.1 100 x\r\nX: y\r\n\r\n" + _answer(_CL3, body=b"abc")),
    _taken("100 of HTTP/1.0 ahead", b"HTTP/1.0 100 x\r\n\r\n" + _answer(_CL3, body=b"abc")),
    _taken(
        "100 that closes ahead", b"HTTP/1.1 100 x\r\nConnection: close\r\n\r\n" + _answer(_CL3, body=b"abc")
    ),
    _taken(
        "102, 103, 104 and 199 ahead", _interims(b"102", b"103", b"104", b"199") + _answer(_CL3, body=b"abc")
    ),
    _taken("eight of 100 ahead", _INTERIM * 8 + _answer(_CL3, body=b"abc")),
    refused("nine of 100 ahead", _INTERIM * 9 + OK),
    Case("100 and nothing", _INTERIM, (), "idle"),
    refused("100 with a length", b"HTTP/1.1 100 x\r\nContent-Length: 44\r\n\r\n" + OK),
    refused("100 with chunks", b"HTTP/1.1 100 x\r\nTransfer-Encoding: chunked\r\n\r\n" + OK),
    refused("104 with a length", b"HTTP/1.1 104 x\r\nContent-Length: 44\r\n\r\n" + OK),
    refused("104 with chunks", b"HTTP/1.1 104 x\r\nTransfer-Encoding: chunked\r\n\r\n" + OK),
    refused("101", b"HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + OK),
    refused("101 without more", b"HTTP/1.1 101 x\r\n\r\n" + OK),
    _taken(
        "200 offers another protocol", _answer(b"Upgrade: h2,h2c", b"Connection: Upgrade", _CL3, body=b"abc")
    ),
    _taken("426", _answer(b"Upgrade: TLS/1.2", _CL3, start=b"HTTP/1.1 426 x", body=b"abc"), status="426"),
)

STARTS: Final = (
    _taken("line: no reason", _answer(_CL3, start=b"HTTP/1.1 200 ", body=b"abc")),
    _taken("line: not even a space", _answer(_CL3, start=b"HTTP/1.1 200", body=b"abc")),
    _taken("line: reason above 7 bits", _answer(_CL3, start="HTTP/1.1 200 Schön".encode(), body=b"abc")),
    _taken("line: empty line ahead", b"\r\n" + _answer(_CL3, body=b"abc")),
    _taken(
        "line: HTTP/1.0 goes on",
        _answer(_CL3, b"Connection: keep-alive", start=b"HTTP/1.0 200 OK", body=b"abc"),
    ),
    _last("line: HTTP/1.0", _answer(_CL3, start=b"HTTP/1.0 200 OK", body=b"abc") + OK),
    Case("line: nothing", b"", (), "idle"),
    _line("HTTP/2", b"HTTP/2 200 OK"),
    _line("HTTP/2.0", b"HTTP/2.0 200 OK"),
    _line("HTTP/1.2", b"HTTP/1.2 200 OK"),
    _line("HTTP/0.9", b"HTTP/0.9 200 OK"),
    _line("HTTP/1.10", b"HTTP/1.10 200 OK"),
    _line("ICY", b"ICY 200 OK"),
    _line("RTSP", b"RTSP/1.0 200 OK"),
    _line("small letters", b"http/1.1 200 OK"),
    _line("two spaces", b"HTTP/1.1  200 OK"),
    _line("tab", b"HTTP/1.1\t200 OK"),
    _line("tab behind the status", b"HTTP/1.1 200\tOK"),
    _line("two digits", b"HTTP/1.1 20 OK"),
    _line("four digits", b"HTTP/1.1 2000 OK"),
    _line("begins with nought", b"HTTP/1.1 099 OK"),
    _line("minus", b"HTTP/1.1 -20 OK"),
    _line("no digits", b"HTTP/1.1 abc OK"),
    _line("no status", b"HTTP/1.1"),
    _line("space ahead", b" HTTP/1.1 200 OK"),
    _line("NUL in the reason", b"HTTP/1.1 200 O\x00K"),
    _line("control character in the reason", b"HTTP/1.1 200 O\x01K"),
    _line("CR in the reason", b"HTTP/1.1 200 O\rK"),
    _line("too long", b"HTTP/1.1 200 " + b"x" * 9000),
    refused("line: ends with LF", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
    refused("line: a request", b"GET / HTTP/1.1\r\n\r\n"),
    refused("line: frames of HTTP/2", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00"),
    refused("line: alert of TLS", b"\x15\x03\x03\x00\x02\x02\x46"),
    refused("line: another protocol", b"220 mail ESMTP\r\n"),
    refused("line: HTML alone", b"<html><body>busy</body></html>"),
)

FIELDS: Final = (
    _taken("field: empty value", _answer(b"X:", _CL3, body=b"abc")),
    _taken("field: above 7 bits", _answer(b"X: \xe9\xff", _CL3, body=b"abc")),
    _taken("field: a hundred", _answer(_CL3, *[b"Set-Cookie: a=b"] * 99, body=b"abc")),
    refused("field: a hundred and one", _answer(_CL3, *[b"Set-Cookie: a=b"] * 100, body=b"abc")),
    refused("field: too long", _answer(b"X: " + b"y" * 17000)),
    refused("field: folded", _answer(b"X: y\r\n z", _CL3, body=b"abc")),
    refused("field: first is folded", _answer(b" X: y", _CL3, body=b"abc")),
    refused("field: space ahead of the colon", _answer(b"X : y", _CL3, body=b"abc")),
    refused("field: no name", _answer(b": y", _CL3, body=b"abc")),
    refused("field: no colon", _answer(b"X", _CL3, body=b"abc")),
    refused("field: NUL in the name", _answer(b"X\x00: y", _CL3, body=b"abc")),
    refused("field: NUL in the value", _answer(b"X: \x00", _CL3, body=b"abc")),
    refused("field: control character in the value", _answer(b"X: \x01", _CL3, body=b"abc")),
    refused("field: bare CR", _answer(b"X: y\rz", _CL3, body=b"abc")),
    refused("field: ends with LF", _answer(b"X: y\nZ: y", _CL3, body=b"abc")),
    refused("field: the head ends with LF LF", b"HTTP/1.1 200 OK\r\nX: y\n\n"),
)

CONNECTIONS: Final = (
    _last("connection: close", _answer(b"Connection: close", _CL3, body=b"abc") + OK),
    _last("connection: close in a list", _answer(b"Connection: x, Close", _CL3, body=b"abc") + OK),
    _last("connection: close with chunks", _answer(b"Connection: close", _TE, body=_ABC) + OK),
    _taken("connection: keep-alive", _answer(b"Connection: keep-alive", _CL3, body=b"abc")),
    refused("connection: body longer than announced", _answer(_CL3, body=b"abcd") + OK, ("200", b"abc")),
    refused("connection: bytes behind the chunks", _answer(_TE, body=_ABC + b"\n") + OK, ("200", b"abc")),
)

CASES: Final = (*BODIES, *STATUSES, *STARTS, *FIELDS, *CONNECTIONS)

TUNNELS: Final = (
    Case("tunnel: made", b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x01", (("200", b""),), "closed"),
    Case("tunnel: made, with a length", _answer(_CL3) + b"\x16\x03\x01", (("200", b""),), "closed"),
    Case("tunnel: made, with chunks", _answer(_TE) + b"\x16\x03\x01", (("200", b""),), "closed"),
    Case("tunnel: 204", _answer(start=b"HTTP/1.1 204 x") + b"\x16", (("204", b""),), "closed"),
    Case("tunnel: behind 100", _INTERIM + _answer() + b"\x16\x03\x01", (("200", b""),), "closed"),
    Case(
        "tunnel: refused",
        _answer(_CL3, start=b"HTTP/1.1 407 x", body=b"abc"),
        (("407", b"abc"),),
        "idle",
    ),
)
"""To CONNECT. What follows a good one is left alone."""
