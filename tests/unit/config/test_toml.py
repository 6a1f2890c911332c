"""TOML 1.1: what upstream reads is read, what it refuses is refused.

The cases are our own. The public collection (the Go module github.com/toml-lang/toml-test, run by hand with
``scripts/toml-test``) has 681 for TOML 1.1.
"""

from __future__ import annotations

import contextlib
from datetime import date, datetime, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import toml
from agent.config.document import parse
from agent.errors import AgentError, ErrorCode
from agent.tee.initdata import parse as parse_init_data

from .support import URL, found

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a = {\n  b = 1,\n  c = 2\n}\n", {"a": {"b": 1, "c": 2}}),
        ("a = { b = 1, }", {"a": {"b": 1}}),
        ("a = {\n  # why\n  b = 1, # and this\n  # the end\n}", {"a": {"b": 1}}),
        ("a = { b = {\r\n c = [ 1, # x\r\n 2, ],\r\n}, }\r\n", {"a": {"b": {"c": [1, 2]}}}),
        ("a = {\n}", {"a": {}}),
        (r'a = "\x41\e[0m\x7e"', {"a": "A\x1b[0m~"}),
        (r'"\x61" = """\e"""', {"a": "\x1b"}),
        (r"a = '\x41'", {"a": r"\x41"}),
        ("a = 07:32", {"a": time(7, 32)}),
        ("a = 1979-05-27 07:32", {"a": datetime(1979, 5, 27, 7, 32)}),  # noqa: DTZ001  # a local time
        ("a = 1979-05-27T07:32Z", {"a": datetime.fromisoformat("1979-05-27T07:32Z")}),
        ("a = 1979-05-27", {"a": date(1979, 5, 27)}),
        ("a = 9223372036854775807", {"a": 2**63 - 1}),
    ],
)
def test_toml_1_1(text: str, tree: dict[str, object]) -> None:
    for content in (text.encode(), BOM + text.encode()):
        assert toml.loads(content) == tree


@pytest.mark.parametrize(
    "content",
    [
        b"a = { , }",
        b"a = { b = 1,, }",
        b"a = { b = 1\n c = 2 }",
        b"a = { b = 1, b = 2 }",
        b"a = { b = 1, }\na.c = 2",
        b"a = 1\na = 2",
        b"[a]\n[a]",
        b"[[a]]\n[a]",
        b'a = "\\x4"',
        b'a = "\\xgg"',
        b'a = "\\E"',
        b"a = 7:32",
        b"a = 07:32Z",
        b"a = 23:59:60",
        b"a = '\x00'",
        b"a = 1\r",
        BOM + BOM + b"a = 1",
        b" " + BOM + b"a = 1",
        b"a = 1\n" + BOM + b"b = 2",
        b"a = 1\n" + BOM,
        b"\xff\xfea\x00 \x00=\x00 \x001\x00",
        b"\xfe\xff\x00a",
        b"a = " + b"[" * 5000,
        b"a = " + b"{ a = \n" * 5000,
        b".".join([b"a"] * 5000) + b" = 1",
    ],
)
def test_what_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(toml.TomlError):
        toml.loads(content)


def test_a_leap_second_is_named() -> None:
    with pytest.raises(toml.TomlError, match=r"leap second.*line 2") as caught:
        toml.loads(b"a = 1\nb = 2016-12-31T23:59:60Z\n")
    assert caught.value.place == "line 2, column 21"


def test_a_mark_inside_a_string_is_a_character() -> None:
    assert toml.loads(b'a = "' + BOM + b'"') == {"a": "\ufeff"}


@given(st.binary(max_size=60) | st.text("{}[]=,#\n\r \"'\\xe0a1-:.T", max_size=60).map(str.encode))
def test_any_bytes_are_tables_or_the_declared_error(content: bytes) -> None:
    with contextlib.suppress(toml.TomlError):
        assert toml.loads(BOM + content) == toml.loads(content.removeprefix(BOM))


@given(st.text("ab'\"\\\t\n#={}", max_size=30), st.integers(-(2**63), 2**63 - 1))
def test_what_is_written_is_read(text: str, number: int) -> None:
    spelled = "".join(f"\\x{ord(char):02x}" for char in text)
    assert toml.loads(f'a = {{ # c\n t = "{spelled}",\n n = {number},\n}}'.encode()) == {
        "a": {"t": text, "n": number}
    }


# --- everywhere it is read ------------------------------------------------------------------------------
LOOSE = f'kbs = {{\n  url = "{URL}", # ours\n  tee_key_algorithm = "\\x52SA-OAEP-256",\n}}\n'


def test_configuration_files_are_toml_1_1() -> None:
    assert not found(aa=f"[token_configs]\n{LOOSE}")
    assert not found(cdh=f'kbc = {{\n name = "cc_kbc",\n url = "{URL}",\n}}\n')
    assert not found(agent="gateway = {\n # why\n deadline = 48,\n}\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [("aa.toml", b"a = 1"), ("aa.json", b'{"a": 1}'), ("aa", b"a = 1"), ("aa", b' {"a": 1}')],
)
def test_files_may_begin_with_a_byte_order_mark(name: str, content: bytes) -> None:
    assert parse(name, BOM + content).tree == {"a": 1}
    with pytest.raises(AgentError):
        parse(name, BOM + BOM + content)


@pytest.mark.parametrize("name", ["aa.toml", "aa.json", "aa"])
def test_utf_16_is_named(name: str) -> None:
    with pytest.raises(AgentError, match="UTF-16; save it as UTF-8"):
        parse(name, "a = 1".encode("utf-16"))


def test_init_data_is_toml_1_1_and_its_mark_is_measured() -> None:
    files = f'"aa.toml" = "[token_configs]", # x\n  "z\\x41" = "{URL}",\n'
    text = f'version = "0.1.0"\nalgorithm = "sha256"\ndata = {{\n  {files}}}\n'
    plain, marked = parse_init_data(text.encode()), parse_init_data(BOM + text.encode())
    assert plain.data == marked.data == {"aa.toml": "[token_configs]", "zA": URL}
    assert plain.digest != marked.digest
    assert marked.text.encode() == BOM + text.encode()


def test_init_data_that_is_no_toml_is_placed_and_not_quoted() -> None:
    with pytest.raises(AgentError) as caught:
        parse_init_data(b'version = "0.1.0"\nc4n4ry = c4n4ry\n')
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert "line 2, column 10" in caught.value.detail
    assert "c4n4ry" not in caught.value.detail
