"""Requests and what a server has to understand, within the bounds of :mod:`tests.framing.feeding`."""

from __future__ import annotations

from typing import Final

from tests.framing.cases import NEXT, Case, lines, refused

_MORE: Final = ("GET /next", b"")


def _post(*fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: a\r\n" + lines(*fields) + body


def _get(*fields: bytes) -> bytes:
    return b"GET /x HTTP/1.1\r\nHost: a\r\n" + lines(*fields)


def _taken(name: str, data: bytes, body: bytes = b"abc", start: str = "POST /x") -> Case:
    return Case(name, data + NEXT, ((start, body), _MORE), "idle")


def _last(name: str, data: bytes, body: bytes = b"", start: str = "GET /x") -> Case:
    """It ends the connection: what follows is not read."""
    return Case(name, data + NEXT, ((start, body),), "closed")


def _chunks(name: str, body: bytes) -> Case:
    return refused(f"chunks: {name}", _post(b"Transfer-Encoding: chunked", body=body))


def _good_chunks(name: str, body: bytes, decoded: bytes = b"abc") -> Case:
    return _taken(f"chunks: {name}", _post(b"Transfer-Encoding: chunked", body=body), decoded)


def _length(name: str, *values: bytes, body: bytes = b"abc") -> Case:
    fields = (b"Content-Length: " + value for value in values)
    return refused(f"length: {name}", _post(*fields, body=body))


def _coding(name: str, *fields: bytes) -> Case:
    return refused(f"coding: {name}", _post(*fields, body=b"3\r\nabc\r\n0\r\n\r\n"))


def _line(name: str, start: bytes) -> Case:
    return refused(f"line: {name}", start + b"\r\nHost: a\r\n\r\n")


def _field(name: str, field: bytes) -> Case:
    return refused(f"field: {name}", b"GET /x HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")


_CL3: Final = b"Content-Length: 3"
_TE: Final = b"Transfer-Encoding: chunked"

LENGTHS: Final = (
    _taken("length: plain", _post(_CL3, body=b"abc")),
    _taken("length: nought", _post(b"Content-Length: 0"), b""),
    _taken("length: none", _post(), b""),
    _taken("length: leading noughts", _post(b"Content-Length: 0003", body=b"abc")),
    _taken("length: white space around it", _post(b"Content-Length:  \t3 \t", body=b"abc")),
    _taken("length: name in other case", _post(b"cOnTeNt-LeNgTh: 3", body=b"abc")),
    _taken("length: of a GET", _get(_CL3) + b"abc", start="GET /x"),
    Case("length: body unfinished", _post(b"Content-Length: 4", body=b"abc"), (), "unfinished"),
    _taken("length: name with an underscore is another", _post(b"Content_Length: 3"), b""),
    _length("twice the same", b"3", b"3"),
    _length("twice, not the same", b"3", b"4"),
    _length("list of the same", b"3, 3"),
    _length("list", b"3, 4"),
    _length("plus", b"+3"),
    _length("minus", b"-3"),
    _length("minus nought", b"-0", body=b""),
    _length("hexadecimal", b"0x3"),
    _length("underscore", b"1_0", body=b"0123456789"),
    _length("space within", b"1 0", body=b"0123456789"),
    _length("point", b"3.0"),
    _length("exponent", b"3e0"),
    _length("empty", b""),
    _length("semicolon", b"3;"),
    _length("comma", b"3,"),
    _length("quoted", b'"3"'),
    _length("vertical tab", b"\x0b3"),
    _length("form feed", b"3\x0c"),
    _length("NUL", b"3\x00"),
    _length("NEL", b"3\x85"),
    _length("other digits", "٣".encode()),
    _length("2^64", b"18446744073709551616"),
    _length("2^64 + 3", b"18446744073709551619"),
    _length("2^63", b"9223372036854775808"),
    _length("2^32 + 3 with noughts", b"00000000004294967299"),
    _length("folded", b"\r\n 3"),
    _length("folded behind a digit", b"1\r\n 0", body=b"0123456789"),
    refused("length: space ahead of the colon", _post(b"Content-Length : 3", body=b"abc")),
    refused("length: tab ahead of the colon", _post(b"Content-Length\t: 3", body=b"abc")),
    refused("length: line ahead is folded into it", _post(b"X: a\r\n\tContent-Length: 3", body=b"abc")),
    refused("length: behind an offer that is not read", _post(b"Content-Length: 1\r\nUpgrade: x\r\n 0")),
)

CODINGS: Final = (
    _taken("coding: chunked", _post(_TE, body=b"3\r\nabc\r\n0\r\n\r\n")),
    _taken("coding: other case", _post(b"transfer-encoding: CHUNKED", body=b"3\r\nabc\r\n0\r\n\r\n")),
    _taken("coding: of a GET", _get(_TE) + b"3\r\nabc\r\n0\r\n\r\n", start="GET /x"),
    _coding("with a length", _TE, _CL3),
    _coding("behind a length", _CL3, _TE),
    _coding("with a length of nought", b"Content-Length: 0", _TE),
    _coding("twice in a list", b"Transfer-Encoding: chunked, chunked"),
    _coding("twice in lines", _TE, _TE),
    _coding("gzip, chunked", b"Transfer-Encoding: gzip, chunked"),
    _coding("chunked, gzip", b"Transfer-Encoding: chunked, gzip"),
    _coding("gzip", b"Transfer-Encoding: gzip"),
    _coding("identity", b"Transfer-Encoding: identity"),
    _coding("identity with a length", b"Transfer-Encoding: identity", _CL3),
    _coding("chunked, identity", b"Transfer-Encoding: chunked, identity"),
    _coding("identity, then chunked in a line", b"Transfer-Encoding: identity", _TE),
    _coding("gzip and chunked in lines", b"Transfer-Encoding: gzip", _TE),
    _coding("xchunked", b"Transfer-Encoding: xchunked"),
    _coding("chunkedx", b"Transfer-Encoding: chunkedx"),
    _coding("x chunked", b"Transfer-Encoding: x chunked"),
    _coding("chunk", b"Transfer-Encoding: chunk"),
    _coding("empty", b"Transfer-Encoding:"),
    _coding("empty with a length", b"Transfer-Encoding:", _CL3),
    _coding("comma behind", b"Transfer-Encoding: chunked,"),
    _coding("comma ahead", b"Transfer-Encoding: ,chunked"),
    _coding("parameter", b"Transfer-Encoding: chunked;q=1"),
    _coding("quoted", b'Transfer-Encoding: "chunked"'),
    _coding("vertical tab", b"Transfer-Encoding: \x0bchunked"),
    _coding("vertical tab behind", b"Transfer-Encoding: chunked\x0b"),
    _coding("NUL", b"Transfer-Encoding: chunked\x00"),
    _coding("bare CR", b"Transfer-Encoding: chunked\rX: y"),
    _coding("bare CR ahead", b"Transfer-Encoding:\rchunked"),
    _coding("no-break space", b"Transfer-Encoding: \xa0chunked"),
    _coding("letter of another alphabet", "Transfer-Encoding: chun\u212aed".encode()),
    _coding("folded", b"Transfer-Encoding:\r\n chunked"),
    _coding("folded in two", b"Transfer-Encoding: chun\r\n ked"),
    _coding("folded behind", b"Transfer-Encoding: chunked\r\n , identity"),
    _coding("space ahead of the colon", b"Transfer-Encoding : chunked"),
    _coding("name begins with white space", b" Transfer-Encoding: chunked"),
    _coding("NUL in the name", b"Transfer\x00-Encoding: chunked"),
    refused("coding: HTTP/1.0", b"POST /x HTTP/1.0\r\n" + lines(_TE) + b"0\r\n\r\n"),
    refused("coding: HTTP/1.0 with a length", b"POST /x HTTP/1.0\r\n" + lines(_CL3, _TE) + b"0\r\n\r\n"),
    _taken("coding: name with an underscore is another", _post(b"Transfer_Encoding: chunked"), b""),
)

CHUNKS: Final = (
    _good_chunks("one", b"3\r\nabc\r\n0\r\n\r\n"),
    _good_chunks("three", b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n"),
    _good_chunks("none", b"0\r\n\r\n", b""),
    _good_chunks("letters as digits", b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
    _good_chunks("leading noughts", b"0000000000000000000000003\r\nabc\r\n000\r\n\r\n"),
    _good_chunks("data are line ends", b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n"),
    _good_chunks("data look like the end", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    _good_chunks("data end as a line would", b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
    _good_chunks("extension", b"3;a\r\nabc\r\n0\r\n\r\n"),
    _good_chunks("extensions with values", b"3;a=b;c=d;e\r\nabc\r\n0;f=g\r\n\r\n"),
    _good_chunks("quoted extension", b'3;a="b;c \\" d"\r\nabc\r\n0\r\n\r\n'),
    _good_chunks("long extension", b"3;a=" + b"b" * 8000 + b"\r\nabc\r\n0\r\n\r\n"),
    _good_chunks("trailer", b"3\r\nabc\r\n0\r\nX: y\r\nZ:\r\n\r\n"),
    _good_chunks("trailer cannot end the connection", b"3\r\nabc\r\n0\r\nConnection: close\r\n\r\n"),
    _good_chunks(
        "trailer offers another protocol", b"3\r\nabc\r\n0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    ),
    _good_chunks("trailer of another Host", b"3\r\nabc\r\n0\r\nHost: b\r\n\r\n"),
    Case("chunks: unfinished", _post(_TE, body=b"3\r\nabc\r\n0\r\n"), (), "unfinished"),
    Case("chunks: 2^64 - 1 unfinished", _post(_TE, body=b"ffffffffffffffff\r\nabc"), (), "unfinished"),
    _chunks("no size", b"\r\nabc\r\n0\r\n\r\n"),
    _chunks("hexadecimal prefix", b"0x3\r\nabc\r\n0\r\n\r\n"),
    _chunks("underscore", b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    _chunks("plus", b"+3\r\nabc\r\n0\r\n\r\n"),
    _chunks("minus", b"-3\r\nabc\r\n0\r\n\r\n"),
    _chunks("no digit", b"g\r\nabc\r\n0\r\n\r\n"),
    _chunks("quoted size", b'"3"\r\nabc\r\n0\r\n\r\n'),
    _chunks("space ahead of the size", b" 3\r\nabc\r\n0\r\n\r\n"),
    _chunks("space behind the size", b"3 \r\nabc\r\n0\r\n\r\n"),
    _chunks("tab behind the size", b"3\t\r\nabc\r\n0\r\n\r\n"),
    _chunks("NUL behind the size", b"3\x00\r\nabc\r\n0\r\n\r\n"),
    _chunks("2^64", b"10000000000000000\r\nabc\r\n0\r\n\r\n"),
    _chunks("2^64 + 3", b"10000000000000003\r\nabc\r\n0\r\n\r\n"),
    _chunks("2^68 + 3", b"100000000000000003\r\nabc\r\n0\r\n\r\n"),
    _chunks("size ends with LF", b"3\nabc\r\n0\r\n\r\n"),
    _chunks("size ends with CR", b"3\rabc\r\n0\r\n\r\n"),
    _chunks("size ends with CR CR LF", b"3\r\r\nabc\r\n0\r\n\r\n"),
    _chunks("data end with LF", b"3\r\nabc\n0\r\n\r\n"),
    _chunks("data end with CR", b"3\r\nabc\r0\r\n\r\n"),
    _chunks("data end with nothing", b"3\r\nabc0\r\n\r\n"),
    _chunks("data longer than their size", b"3\r\nabcd\r\n0\r\n\r\n"),
    _chunks("data shorter than their size", b"4\r\nabc\r\n0\r\n\r\n"),
    _chunks("last ends with LF", b"0\n\r\n"),
    _chunks("empty line is LF", b"0\r\n\n"),
    _chunks("all end with LF", b"3\nabc\n0\n\n"),
    _chunks("extension with LF", b"3;a=b\nc\r\nabc\r\n0\r\n\r\n"),
    _chunks("extension with CR", b"3;a=b\rc\r\nabc\r\n0\r\n\r\n"),
    _chunks("quoted extension with LF", b'3;a="b\nc"\r\nabc\r\n0\r\n\r\n'),
    _chunks("quoted extension with CR LF", b'3;a="b\r\nc"\r\nabc\r\n0\r\n\r\n'),
    _chunks("quoted extension without end", b'3;a="b\r\nabc\r\n0\r\n\r\n'),
    _chunks("extension without name", b"3;\r\nabc\r\n0\r\n\r\n"),
    _chunks("extension with NUL", b"3;a\x00\r\nabc\r\n0\r\n\r\n"),
    _chunks("extension above 7 bits", b"3;\xe9=\xe9\r\nabc\r\n0\r\n\r\n"),
    _chunks("space ahead of the extension", b"3 ;a\r\nabc\r\n0\r\n\r\n"),
    _chunks("extensions above the bound", b"3;a=" + b"b" * 17000 + b"\r\nabc\r\n0\r\n\r\n"),
    _chunks("many of one byte with extensions", b"1;aaaaaaaa\r\na\r\n" * 2000 + b"0\r\n\r\n"),
    _chunks("trailers above the bound", b"0\r\n" + b"X: y\r\n" * 3000 + b"\r\n"),
    _chunks("one trailer above the bound", b"0\r\nX: " + b"y" * 17000),
    _chunks("trailer is a length", b"0\r\nContent-Length: 5\r\n\r\n"),
    _chunks("trailer is a coding", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    _chunks("trailer is folded", b"0\r\nX: y\r\n z\r\n\r\n"),
    _chunks("trailer ends with LF", b"0\r\nX: y\nZ: y\r\n\r\n"),
    _chunks("trailer without colon", b"0\r\nX\r\n\r\n"),
    _chunks("trailer without name", b"0\r\n: y\r\n\r\n"),
    _chunks("trailer with NUL", b"0\r\nX: \x00\r\n\r\n"),
    _chunks("space ahead of a trailer's colon", b"0\r\nX : y\r\n\r\n"),
    _chunks("a request in their place", NEXT),
)

STARTS: Final = (
    _taken("line: query", b"GET /x?a=b&c=%20 HTTP/1.1\r\nHost: a\r\n\r\n", b"", "GET /x?a=b&c=%20"),
    _taken("line: two slashes", b"GET //x//y HTTP/1.1\r\nHost: a\r\n\r\n", b"", "GET //x//y"),
    _taken("line: dots", b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n", b"", "GET /../x"),
    _taken("line: absolute", b"GET http://a:1/x HTTP/1.1\r\nHost: a\r\n\r\n", b"", "GET http://a:1/x"),
    _taken("line: asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"", "OPTIONS *"),
    *(
        _taken(f"line: {name}", f"{name} /x HTTP/1.1\r\nHost: a\r\n\r\n".encode(), b"", f"{name} /x")
        for name in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
    ),
    _taken("line: empty lines ahead", b"\r\n\r\n" + _get(), b"", "GET /x"),
    _taken("line: longest", b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\n\r\n", b"", "GET /" + "x" * 8000),
    _last("line: authority", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", start="CONNECT a:443"),
    _last("line: CONNECT with a length", b"CONNECT a:1 HTTP/1.1\r\n" + lines(_CL3), start="CONNECT a:1"),
    _last("line: HTTP/1.0", b"GET /x HTTP/1.0\r\n\r\n"),
    _last("line: HTTP/1.0 with a body", b"POST /x HTTP/1.0\r\n" + lines(_CL3) + b"abc", b"abc", "POST /x"),
    _taken(
        "line: HTTP/1.0 goes on", b"GET /x HTTP/1.0\r\n" + lines(b"Connection: Keep-Alive"), b"", "GET /x"
    ),
    Case("line: nothing", b"", (), "idle"),
    Case("line: empty lines", b"\r\n\r\n\r\n", (), "idle"),
    Case("line: unfinished", b"GET /x HT", (), "unfinished"),
    _line("too long", b"GET /" + b"x" * 9000 + b" HTTP/1.1"),
    refused("line: too long, unfinished", b"GET /" + b"x" * 9000),
    _line("HTTP/0.9", b"GET /x"),
    _line("HTTP/0.9 by name", b"GET /x HTTP/0.9"),
    _line("HTTP/1.2", b"GET /x HTTP/1.2"),
    _line("HTTP/1.10", b"GET /x HTTP/1.10"),
    _line("HTTP/1.01", b"GET /x HTTP/1.01"),
    _line("HTTP/2.0", b"GET /x HTTP/2.0"),
    _line("HTTP/1", b"GET /x HTTP/1"),
    _line("HTTP/1.", b"GET /x HTTP/1."),
    _line("http/1.1", b"GET /x http/1.1"),
    _line("comma in the version", b"GET /x HTTP/1,1"),
    _line("other name", b"GET /x HTTPS/1.1"),
    _line("RTSP", b"DESCRIBE /x RTSP/1.0"),
    _line("ICE", b"SOURCE /x ICE/1.0"),
    refused("line: preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _line("method of that preface", b"PRI * HTTP/1.1"),
    _line("method of that preface, of a path", b"PRI /x HTTP/1.0"),
    refused("line: that method with a body", b"PRI /x HTTP/1.1\r\n" + lines(_CL3) + b"abc" + NEXT),
    refused("line: TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    refused("line: SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
    refused("line: PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + NEXT),
    _line("method in small letters", b"get /x HTTP/1.1"),
    _line("method that nobody knows", b"FOO /x HTTP/1.1"),
    _line("method with NUL", b"GE\x00T /x HTTP/1.1"),
    _line("method above 7 bits", b"G\xc9T /x HTTP/1.1"),
    _line("no method", b"/x HTTP/1.1"),
    _line("space ahead", b" GET /x HTTP/1.1"),
    _line("two spaces", b"GET  /x HTTP/1.1"),
    _line("two spaces behind the target", b"GET /x  HTTP/1.1"),
    _line("space behind", b"GET /x HTTP/1.1 "),
    _line("tabs", b"GET\t/x\tHTTP/1.1"),
    _line("vertical tab", b"GET /x\x0bHTTP/1.1"),
    _line("space in the target", b"GET /x y HTTP/1.1"),
    _line("tab in the target", b"GET /x\ty HTTP/1.1"),
    _line("NUL in the target", b"GET /x\x00 HTTP/1.1"),
    _line("DEL in the target", b"GET /x\x7f HTTP/1.1"),
    _line("target above 7 bits", b"GET /\xc3\xa9 HTTP/1.1"),
    _line("bare CR in the target", b"GET /x\ry HTTP/1.1"),
    _line("no target", b"GET HTTP/1.1"),
    _line("empty target", b"GET  HTTP/1.1"),
    _line("ends with CR CR LF", b"GET /x HTTP/1.1\r"),
    refused("line: ends with LF", b"GET /x HTTP/1.1\nHost: a\r\n\r\n"),
    refused("line: ends with CR", b"GET /x HTTP/1.1\rHost: a\r\n\r\n"),
    refused("line: LF ahead", b"\n" + NEXT),
    refused("line: CR ahead", b"\r" + NEXT),
    refused("line: two CR ahead", b"\r\r\n" + NEXT),
    refused("line: space in an empty line ahead", b" \r\n" + NEXT),
    refused("line: NUL ahead", b"\x00" + NEXT),
    refused("line: byte order mark ahead", b"\xef\xbb\xbf" + NEXT),
)

FIELDS: Final = (
    _taken("field: empty value", _get(b"X:", b"Y: "), b"", "GET /x"),
    _taken("field: no space behind the colon", _get(b"X:y"), b"", "GET /x"),
    _taken("field: colons in the value", _get(b"X: y: z:"), b"", "GET /x"),
    _taken("field: tab in the value", _get(b"X: y\tz"), b"", "GET /x"),
    _taken("field: above 7 bits", _get("X: é".encode(), b"Y: \xff\x80"), b"", "GET /x"),
    _taken("field: all a name may hold", _get(b"!#$%&'*+-.^_`|~09azAZ: y"), b"", "GET /x"),
    _taken("field: a hundred", b"GET /x HTTP/1.1\r\n" + lines(*[b"X: y"] * 100), b"", "GET /x"),
    _taken("field: no Host", b"GET /x HTTP/1.1\r\n\r\n", b"", "GET /x"),
    _taken("field: two of Host", _get(b"Host: b"), b"", "GET /x"),
    refused("field: a hundred and one", b"GET /x HTTP/1.1\r\n" + lines(*[b"X: y"] * 101)),
    refused("field: too many, unfinished", b"GET /x HTTP/1.1\r\n" + b"X: yyyy\r\n" * 3000),
    refused("field: too long", _get(b"X: " + b"y" * 17000)),
    refused("field: too long, unfinished", b"GET /x HTTP/1.1\r\nX: " + b"y" * 17000),
    refused("field: head one byte above its bound", b"GET /x HTTP/1.1\r\nX: " + b"y" * 16361 + b"\r\n\r\n"),
    _taken("field: head at its bound", b"GET /x HTTP/1.1\r\nX: " + b"y" * 16360 + b"\r\n\r\n", b"", "GET /x"),
    _field("white space ahead of the first", b"X: y\r\n Z: y"),
    refused("field: first line is folded", b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n"),
    refused("field: first line is folded by a tab", b"GET /x HTTP/1.1\r\n\tHost: a\r\n\r\n"),
    _field("folded", b"X: y\r\n z"),
    _field("folded by a tab", b"X: y\r\n\tz"),
    _field("folded, empty", b"X: y\r\n "),
    _field("folded behind an empty value", b"X:\r\n y"),
    _field("folded behind an offer", b"Upgrade: x\r\n y"),
    _field("space ahead of the colon", b"X : y"),
    _field("tab ahead of the colon", b"X\t: y"),
    _field("space in the name", b"X y: z"),
    _field("no name", b": y"),
    _field("no colon", b"X"),
    _field("NUL in the name", b"X\x00: y"),
    _field("name above 7 bits", b"X\xe9: y"),
    _field("bracket in the name", b"X(y): z"),
    _field("quote in the name", b'"X": z'),
    _field("CR in the name", b"X\r: z"),
    _field("NUL in the value", b"X: \x00"),
    _field("control character in the value", b"X: \x01"),
    _field("DEL in the value", b"X: \x7f"),
    _field("vertical tab in the value", b"X: y\x0bz"),
    _field("bare CR in the value", b"X: y\rz"),
    _field("bare CR at the value's end", b"X: y\r"),
    _field("NUL in an offer", b"Upgrade: \x00"),
    _field("ends with LF", b"X: y\nZ: y"),
    refused("field: the head ends with LF LF", b"GET /x HTTP/1.1\r\nHost: a\n\n"),
    refused("field: the head ends with LF", b"GET /x HTTP/1.1\r\nHost: a\r\n\n"),
    refused("field: the head ends with CR", b"GET /x HTTP/1.1\r\nHost: a\r\n\r" + NEXT),
    Case("field: unfinished", b"GET /x HTTP/1.1\r\nHost: a\r\n", (), "unfinished"),
)

CONNECTIONS: Final = (
    Case("connection: three at once", NEXT * 3, (_MORE,) * 3, "idle"),
    Case(
        "connection: two with bodies",
        _post(_CL3, body=b"abc") + _post(_TE, body=b"1\r\nd\r\n0\r\n\r\n") + NEXT,
        (("POST /x", b"abc"), ("POST /x", b"d"), _MORE),
        "idle",
    ),
    Case("connection: empty lines between", _get() + b"\r\n\r\n" + NEXT, (("GET /x", b""), _MORE), "idle"),
    refused("connection: body longer than announced", _post(_CL3, body=b"abcd") + NEXT, ("POST /x", b"abc")),
    refused("connection: good, then not", NEXT + b"GET /x\r\n\r\n", _MORE),
    _last("connection: close", _get(b"Connection: close")),
    _last("connection: close in other case", _get(b"connection: CLOSE")),
    _last("connection: close in a list", _get(b"Connection: keep-alive,\tclose")),
    _last("connection: close in a line of its own", _get(b"Connection: x", b"Connection: close")),
    _last("connection: close with a body", _post(b"Connection: close", _CL3, body=b"abc"), b"abc", "POST /x"),
    _taken("connection: keep-alive", _get(b"Connection: keep-alive"), b"", "GET /x"),
    _taken("connection: another word", _get(b"Connection: closed"), b"", "GET /x"),
    _taken("connection: of a proxy", _get(b"Proxy-Connection: close"), b"", "GET /x"),
    _taken("upgrade: h2c", _get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"), b"", "GET /x"),
    _taken("upgrade: websocket", _get(b"Upgrade: websocket", b"Connection: Upgrade"), b"", "GET /x"),
    _taken("upgrade: with a body", _post(b"Upgrade: h2c", b"Connection: upgrade", _CL3, body=b"abc")),
    _taken(
        "upgrade: with chunks",
        _post(b"uPGRADE: a", b"Upgrade:b", b"Connection: upgrade", _TE, body=b"3\r\nabc\r\n0\r\n\r\n"),
    ),
    _taken("upgrade: to TLS", _get(b"Upgrade: TLS/1.2", b"Connection: Upgrade"), b"", "GET /x"),
    _taken("expect: 100-continue", _post(b"Expect: 100-continue", _CL3, body=b"abc")),
    _taken("expect: something else", _post(b"Expect: 200-ok", _CL3, body=b"abc")),
    Case("expect: waiting", _post(b"Expect: 100-continue", _CL3), (), "unfinished"),
)

CASES: Final = (*LENGTHS, *CODINGS, *CHUNKS, *STARTS, *FIELDS, *CONNECTIONS)
