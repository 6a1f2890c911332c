"""Whatever a file, an environment or a kernel command line says: a configuration, or CONFIG_INVALID."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import keys, urls
from agent.config.assemble import Inputs, assemble, findings
from agent.config.document import Document, parse
from agent.config.keys import KEYS, File
from agent.config.show import rows
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.model import Config

BEGIN = "-----BEGIN CERTIFICATE-----"
BELOW = "/run/confidential-containers/cdh/kbs/x"
TEXT = st.text(max_size=40) | st.sampled_from(
    ["", "cc_kbc", "offline_fs_kbc", "https://kbs:8080", "http:10.0.0.1", "unix:///x", "/a/b", "all",
     "sha256/", "cc_kbc::http://[::1]", f"kbs:///a/b/c::{BELOW}", BEGIN]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


@st.composite
def trees(draw: st.DrawFn, file: File) -> Mapping[str, object]:
    """A tree that is made of real and of invented keys."""
    names = st.sampled_from([key.name for key in KEYS if key.file is file])
    tree: dict[str, object] = dict(draw(st.dictionaries(TEXT, VALUES, max_size=2)))
    for name in draw(st.lists(names | st.text(".ab", min_size=1, max_size=6), max_size=5)):
        table = tree
        *parents, last = name.split(".")
        for parent in parents:
            deeper = table.setdefault(parent, {})
            if not isinstance(deeper, dict):
                break
            table = deeper
        table[last] = draw(VALUES)
    return tree


def outcome(inputs: Inputs) -> Config | AgentError:
    try:
        return assemble(inputs)
    except AgentError as error:
        return error


def parsed(name: str, content: bytes) -> Document | AgentError:
    try:
        return parse(name, content)
    except AgentError as error:
        return error


def documents(file: File) -> st.SearchStrategy[Document | None]:
    return st.none() | trees(file).map(lambda tree: Document(file.value, tree))


PLACES = st.sampled_from([place.name for place in (*keys.ENVIRONMENT, *keys.KERNEL)])
ENVIRONS = st.dictionaries(PLACES | TEXT, TEXT, max_size=5)
CMDLINES = st.lists(st.tuples(PLACES | TEXT, TEXT).map("=".join) | TEXT, max_size=6).map(" ".join)
ARGUMENTS = st.dictionaries(st.sampled_from([*keys.ARGUMENTS, "x"]), TEXT, max_size=3)


# Not st.builds, which looks up annotations that only a type checker can.
@st.composite
def all_inputs(draw: st.DrawFn) -> Inputs:
    return Inputs(
        draw(documents(File.AA)),
        draw(documents(File.CDH)),
        draw(documents(File.AGENT)),
        environ=draw(ENVIRONS),
        cmdline=draw(CMDLINES),
        arguments=draw(ARGUMENTS),
    )


@settings(max_examples=200, deadline=None)
@given(all_inputs())
def test_only_config_invalid_escapes(inputs: Inputs) -> None:
    told = findings(inputs)
    made = outcome(inputs)
    if isinstance(made, AgentError):
        assert made.code is ErrorCode.CONFIG_INVALID
        assert any(finding.blocking for finding in told)
        assert made.detail.isprintable()
        return
    assert not any(finding.blocking for finding in told)
    assert all(row.value.isprintable() for row in rows(made))
    assert all(warning.isprintable() for warning in made.warnings)
    if inputs.agent is None:
        assert not made.attester.allow_sample
        assert not made.strict_origin
    if inputs.cdh is None:
        assert not made.hub.sealed.skip_verification


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["a.toml", "a.json", "a", "a.conf"]),
    content=st.binary(max_size=200) | st.text('[]{}=".,\n #abc019-:', max_size=80).map(str.encode)
    | VALUES.map(lambda value: json.dumps(value).encode()),
)  # fmt: skip
def test_parsing_ends_in_a_document_or_config_invalid(name: str, content: bytes) -> None:
    made = parsed(name, content)
    if isinstance(made, AgentError):
        assert made.code is ErrorCode.CONFIG_INVALID
        assert made.detail.startswith(name)
    else:
        assert isinstance(made.tree, dict)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(["http", "https", ":", "/", "//", "[", "]", "::", "@", "1", "a", ".", "%"])
    ).map("".join)
)
def test_a_url_is_judged_without_an_exception(text: str) -> None:
    assert isinstance(urls.problem(text), str)
    assert isinstance(urls.problem(text, credentials=True), str)
    assert isinstance(urls.socket_problem(text), str)
    assert isinstance(urls.redact(text), str)
    assert isinstance(urls.is_loopback(text), bool)


@given(
    user=st.text("abc", min_size=1),
    password=st.text("0123456789", min_size=6),
    host=st.text("xyz", min_size=1),
)
def test_redaction_removes_credentials(user: str, password: str, host: str) -> None:
    assert (
        urls.redact(f"https://{user}:{password}@{host}/p?token={password}#{password}") == f"https://{host}/p"
    )
    assert password not in urls.redact(f"https://{user}:{password}@[{host}")
