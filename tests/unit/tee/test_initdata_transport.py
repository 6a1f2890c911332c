from __future__ import annotations

import base64
import contextlib
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.initdata import Algorithm, parse
from agent.tee.initdata_transport import annotation, build, expected, unpack
from tests.unit.tee.test_initdata import DOCUMENT

AA = '[token_configs.kbs]\nurl = "http://127.0.0.1:8080"\n'


def disk(packed: bytes) -> bytes:
    """As the host writes it: magic, length, gzip, padding to a sector (kata_integration.md 3.1)."""
    content = b"initdata" + len(packed).to_bytes(8, "little") + packed
    return content + bytes(-len(content) % 512)


def test_the_vector_is_built_byte_for_byte() -> None:
    assert build({"aa.toml": AA}) == DOCUMENT


def test_equal_files_give_an_equal_annotation() -> None:
    assert annotation(build({"aa.toml": AA})) == annotation(build({"aa.toml": AA}))


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (DOCUMENT, "TOML"),
        (gzip.compress(DOCUMENT), "gzip"),
        (annotation(DOCUMENT).encode(), "annotation"),
        (annotation(DOCUMENT).encode() + b"\n", "annotation"),
        (disk(gzip.compress(DOCUMENT)), "disk image"),
    ],
)
def test_every_form_is_recognised(content: bytes, form: str) -> None:
    unpacked = unpack(content)
    assert (unpacked.form, unpacked.document) == (form, DOCUMENT)


def test_the_registers_of_the_vector() -> None:
    digest = parse(DOCUMENT).digest
    values = expected(digest)
    assert values.host_data == digest
    assert values.mr_config_id == digest + bytes(16)
    assert values.pcr8 is not None
    assert values.pcr8.hex() == "7d92ad941f12424a4e3481d3746518f9fd5e4173ab3e6ad10d6df316b14b89da"


def test_a_longer_digest_is_cut_for_snp_and_does_not_fit_a_vtpm() -> None:
    digest = parse(build({"aa.toml": AA}, Algorithm.SHA384)).digest
    values = expected(digest)
    assert (values.host_data, values.mr_config_id, values.pcr8) == (digest[:32], digest, None)


def test_upstreams_pcr8_vector() -> None:
    digest = bytes.fromhex("8505e4e25e50a27c5dc8147af88efbece627fbea55291911eff832d9ee127781")
    pcr8 = expected(digest).pcr8
    assert pcr8 is not None
    assert pcr8.hex() == "bddaccb9c52249e97a31baea61b7d91be8221a16e703d92148d04fb8e9c1dfdd"


@pytest.mark.parametrize(
    "content",
    [
        b"initdata" + (10_000).to_bytes(8, "little") + b"short",
        b"\x1f\x8bnot gzip",
        gzip.compress(DOCUMENT)[:-9],
        gzip.compress(bytes(limits.CONFIG_MAX_FILE + 1)),
        base64.b64encode(gzip.compress(bytes(limits.CONFIG_MAX_FILE * 50))),
        bytes(limits.CONFIG_MAX_FILE + 1),
    ],
    ids=["cut disk", "no gzip", "cut gzip", "too large", "bomb", "too large itself"],
)
def test_what_cannot_be_unpacked_is_refused(content: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        unpack(content)
    assert caught.value.code is ErrorCode.CONFIG_INVALID


TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(max_examples=200)
@given(st.dictionaries(TEXTS, TEXTS, max_size=4), st.sampled_from(Algorithm))
def test_what_is_built_is_read_again(data: dict[str, str], algorithm: Algorithm) -> None:
    read = parse(unpack(annotation(build(data, algorithm)).encode()).document)
    assert (read.data, read.algorithm) == (data, algorithm)


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"initdata" + tail))
def test_any_bytes_are_unpacked_or_refused(content: bytes) -> None:
    with contextlib.suppress(AgentError):
        assert unpack(content).form


STEPS = {
    "base64": base64.b64encode,
    "url": base64.urlsafe_b64encode,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "quotes": lambda data: b'"' + data + b'"',
    "yaml": lambda data: b"key: " + data,
    "lines": base64.encodebytes,
}


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(sorted(STEPS)), max_size=4),
    st.sampled_from([DOCUMENT, b"", b"x = 1\n", b"\x00\xff"]),
)
def test_other_layers_than_those_that_are_used_are_refused(layers: list[str], document: bytes) -> None:
    content = document
    for layer in layers:
        content = STEPS[layer](content)
    with contextlib.suppress(AgentError):
        read = parse(unpack(content).document)
        assert read.text.encode() == document
        # Base64 with "-" and "_" differs from the standard one only where these occur.
        assert ["base64" if layer in {"url", "lines"} else layer for layer in layers] in (
            [],
            ["gzip"],
            ["gzip", "base64"],
        )
