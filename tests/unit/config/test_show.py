"""What people see of a configuration."""

from __future__ import annotations

import hashlib

from agent.config.show import rows

from .support import CDH, PEM, PIN, config


def test_every_value_is_shown_with_its_origin() -> None:
    agent = f"""
[kbs]
url = "https://kbs.example/"
pins = ["{PIN}"]
proxy = "http://user:hunter2@proxy:3128"
request_timeout = 2.5
"""
    made = config(cdh=CDH, agent=agent, environ={"RUST_LOG": "debug"})
    shown = {row.name: (row.value, row.origin) for row in rows(made)}
    assert shown["attester.kbs.url"] == ("https://kbs.example", "file (agent.toml)")
    assert shown["hub.kbs.pins"] == (PIN, "file (agent.toml)")
    assert shown["hub.kbs.proxy"] == ("http://proxy:3128", "file (agent.toml)")
    assert shown["hub.kbs.request_timeout"][0] == "2.5"
    assert shown["observe.log_level"] == ("debug", "environment (RUST_LOG)")
    assert shown["gateway.features"] == ("resource", "default")
    assert shown["strict_origin"] == ("false", "default")


def test_nothing_secret_is_shown() -> None:
    agent = '[kbs]\nproxy = "http://user:hunter2@proxy:3128"\n'
    aa = '[token_configs.coco_as]\nurl = "hunter2@[http:"\n'
    environ = {"AA_KBC_PARAMS": "x::https://user:hunter2@kbs"}
    made = config(aa=aa, agent=agent, environ=environ)
    text = repr(rows(made)) + repr(made.warnings)
    assert "hunter2" not in text


def test_certificates_are_fingerprints() -> None:
    fingerprint = hashlib.sha256(b"\x30\x00").hexdigest()
    made = config(cdh=f'{CDH}kbs_cert = """{PEM}{PEM}"""\n')
    value = {row.name: row.value for row in rows(made)}["hub.kbs.extra_roots"]
    assert value == f"2 certificates, sha256 {fingerprint}, {fingerprint}"


def test_control_characters_do_not_reach_a_terminal() -> None:
    made = config(environ={"AA_KBC_PARAMS": "evil\x1b[2J::x"})
    assert "\x1b" not in "".join(row.value for row in rows(made))
    assert "\x1b" not in "".join(made.warnings)
