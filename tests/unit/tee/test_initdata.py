from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.initdata import Algorithm, parse

# attesters.md 16.1, own vector: 117 bytes
DOCUMENT = b"""version = "0.1.0"
algorithm = "sha256"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = "http://127.0.0.1:8080"
'''
"""


def refused(document: bytes) -> str:
    with pytest.raises(AgentError) as caught:
        parse(document)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    return caught.value.detail


def test_the_vector() -> None:
    assert len(DOCUMENT) == 117
    read = parse(DOCUMENT)
    assert read.digest.hex() == "e2cee302008783a302f9481be6a48af956a408b5fbd3db05696f9f6652b405ea"
    assert read.algorithm is Algorithm.SHA256
    assert read.data == {"aa.toml": '[token_configs.kbs]\nurl = "http://127.0.0.1:8080"\n'}
    assert read.text.encode() == DOCUMENT


def test_the_vector_with_another_algorithm() -> None:
    digest = parse(DOCUMENT.replace(b"sha256", b"sha384")).digest
    assert digest.hex() == (
        "05d5f35909615bbce5935cf7676425ef615f420afdb580bd7cf3d7888383d9d2ee58bb2b7544206c95f405625f3d52fc"
    )
    assert len(parse(DOCUMENT.replace(b"sha256", b"sha512")).digest) == 64


def test_every_byte_counts() -> None:
    plain = parse(DOCUMENT).digest
    for other in (DOCUMENT + b"\n", DOCUMENT[:-1], DOCUMENT.replace(b"\n", b"\r\n"), b"# note\n" + DOCUMENT):
        assert parse(other).digest != plain
        assert parse(other).digest == hashlib.sha256(other).digest()


@pytest.mark.parametrize("name", [b"sha-256", b"SHA256", b"sm3", b"md5", b"", b"sha1"])
def test_other_algorithms_are_refused(name: bytes) -> None:
    assert "algorithm" in refused(DOCUMENT.replace(b"sha256", name))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"0.1.0"', b'"0.2.0"'),
        (b'"0.1.0"', b"1"),
        (b'"0.1.0"', b"[]"),
        (b'version = "0.1.0"\n', b""),
        (b'"sha256"', b"256"),
        (b'"sha256"', b"{}"),
        (b'algorithm = "sha256"\n', b""),
        (b"[data]", b"[other]"),
        (b"[data]", b"[[data]]"),
        (b"\n[data]\n", b"\ndata = 1\n[x]\n"),
    ],
)
def test_a_wrong_or_missing_member_is_refused(before: bytes, after: bytes) -> None:
    assert before in DOCUMENT
    refused(DOCUMENT.replace(before, after))


def test_data_holds_strings_only() -> None:
    assert "string" in refused(DOCUMENT + b"number = 1\n")


def test_data_may_be_empty_and_other_members_are_ignored() -> None:
    assert parse(b'version = "0.1.0"\nalgorithm = "sha256"\nextra = 1\n[data]\n').data == {}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff\xfe",
        b"\xef\xbb\xbf" * 2 + DOCUMENT,
        b"a = [" * 20_000,
        b"a = " + b"9" * 5000,
        b"a = {" * 5000,
        DOCUMENT + DOCUMENT,
    ],
)
def test_what_is_not_such_a_document_is_refused(document: bytes) -> None:
    refused(document)


def test_the_size_limit_is_exact() -> None:
    full = DOCUMENT + b"#" * (limits.CONFIG_MAX_FILE - len(DOCUMENT))
    assert parse(full).digest
    assert "larger" in refused(full + b"#")


def test_the_content_does_not_show() -> None:
    assert "8080" not in repr(parse(DOCUMENT))
    assert "c4n4ry" not in refused(DOCUMENT + b"c4n4ry")


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_only_raise_the_declared_error(document: bytes) -> None:
    with contextlib.suppress(AgentError):
        parse(document)


@settings(max_examples=200)
@given(at=st.integers(0, len(DOCUMENT) - 1), to=st.binary(max_size=4), drop=st.integers(0, 8))
def test_a_changed_document_parses_as_what_it_is_or_is_refused(at: int, to: bytes, drop: int) -> None:
    changed = DOCUMENT[:at] + to + DOCUMENT[at + drop :]
    with contextlib.suppress(AgentError):
        read = parse(changed)
        assert read.digest == hashlib.new(read.algorithm.value, changed).digest()
        assert read.text.encode() == changed


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1),
        st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="'")),
        max_size=5,
    )
)
def test_strings_come_back(data: dict[str, str]) -> None:
    lines = [f"{name} = '{content}'" for name, content in data.items()]
    document = "\n".join(['version = "0.1.0"', 'algorithm = "sha512"', "[data]", *lines])
    assert parse(document.encode()).data == data
