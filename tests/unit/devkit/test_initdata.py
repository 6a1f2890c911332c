from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devkit.kbs import initdata, wire

TOML = '''algorithm = "sha384"
version = "0.1.0"

[data]
"aa.toml" = """
[token_configs.kbs]
url = "http://kbs"
"""
"policy.rego" = """
package agent_policy
policy_data := {"containers": [1]}
"""
note = "plain"
'''


def read(body: str, form: str = "toml") -> initdata.ReadInitData:
    return initdata.read(wire.InitData(form, body))


def test_the_digest_is_over_the_text_as_sent() -> None:
    assert read(TOML).digest == hashlib.sha384(TOML.encode()).digest()
    shorter = TOML.replace("sha384", "sha256")
    assert read(shorter).digest == hashlib.sha256(shorter.encode()).digest()


def test_known_files_become_json_claims() -> None:
    assert read(TOML).claims == {
        "aa.toml": {"token_configs": {"kbs": {"url": "http://kbs"}}},
        "agent_policy_claims": {"containers": [1]},
        "note": "plain",
    }


def test_a_policy_without_data_stays_text() -> None:
    claims = read('algorithm="sha256"\nversion="1"\n[data]\n"policy.rego"="package p"\n').claims
    assert claims == {"policy.rego": "package p"}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not toml",
        TOML.replace("sha384", "sha-384"),
        TOML.replace("sha384", "md5"),
        TOML.replace('note = "plain"', "note = 1"),
        TOML.replace('version = "0.1.0"', ""),
        TOML.replace("[token_configs.kbs]", "[token_configs"),
        "a = " + "[" * 5000,
    ],
)
def test_what_is_not_init_data_is_refused(body: str) -> None:
    with pytest.raises(wire.MalformedError):
        read(body)


def test_only_toml_is_a_format() -> None:
    with pytest.raises(wire.MalformedError, match="format"):
        read(TOML, "json")


@settings(max_examples=150)
@given(text=st.text(max_size=60), value=st.integers() | st.dates() | st.floats())
def test_any_text_is_read_or_refused_cleanly(text: str, value: Any) -> None:
    inner = f"x = {value}\n".replace("'", "")
    for body in (text, f"algorithm='sha256'\nversion='1'\n[data]\n'cdh.toml'='''{inner}'''"):
        with contextlib.suppress(wire.MalformedError):
            assert len(read(body).digest) >= 32


def test_what_the_guest_reads_the_broker_reads() -> None:
    """TOML 1.1 and a byte order mark, which count in the digest."""
    body = '\ufeffversion = "0.1.0"\nalgorithm = "sha256"\ndata = {\n  note = "\\x41", # why\n}\n'
    assert read(body).claims == {"note": "A"}
    assert read(body).digest == hashlib.sha256(body.encode()).digest()
