"""Several endpoints of one broker."""

from __future__ import annotations

import pytest

from agent.config.model import KbsServer
from agent.config.show import rows
from agent.errors import AgentError, ErrorCode

from .support import AA, CDH, OTHER, PEM, PIN, URL, config, found

ONE, TWO = "https://kbs-1.example:8080", "https://kbs-2.example:8080"
LIST = f'[kbs]\nendpoints = [{{ url = "{ONE}/", pins = ["{PIN}"] }}, {{ url = "{TWO}" }}]\n'


def urls(servers: tuple[KbsServer, ...]) -> list[str]:
    return [server.url for server in servers]


def test_a_list_is_all_a_guest_needs() -> None:
    made = config(agent=LIST)
    for kbs in (made.attester.kbs, made.hub.kbs):
        assert kbs.url == ONE
        assert urls(kbs.servers()) == [ONE, TWO]
        assert [server.pins for server in kbs.servers()] == [(bytes(range(32)),), ()]
    assert made.hub.kbc == "cc_kbc"


def test_a_single_url_is_a_list_of_one() -> None:
    made = config(agent=f'[kbs]\nurl = "{URL}"\npins = ["{PIN}"]\n')
    assert made.hub.kbs.servers() == (KbsServer(URL, pins=(bytes(range(32)),)),)


def test_a_role_of_another_broker_keeps_its_own() -> None:
    made = config(aa=f'[token_configs.kbs]\nurl = "{OTHER}"\n', agent=LIST)
    assert urls(made.attester.kbs.servers()) == [OTHER]  # passport mode
    assert urls(made.hub.kbs.servers()) == [ONE, TWO]
    assert any("none of kbs.endpoints" in text for text in made.warnings)


def test_a_role_that_names_one_of_them_gets_them_all() -> None:
    aa = f'[token_configs.kbs]\nurl = "{TWO}"\n'
    assert urls(config(aa=aa, agent=LIST).attester.kbs.servers()) == [ONE, TWO]


def test_one_without_trust_of_its_own_has_the_brokers() -> None:
    made = config(agent=f'{LIST}cert = """{PEM}"""\n')
    first, second = made.attester.kbs.servers()
    assert (first.extra_roots, second.extra_roots) == ("", PEM)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('"https://kbs"', "expected a table"),
        ("{}", "no url"),
        ('{ url = "kbs" }', "scheme"),
        ('{ url = "https://u:hunter2@kbs" }', "credentials"),
        ('{ url = "https://kbs", pin = [] }', "none of url, pins and cert"),
        ('{ url = "https://kbs", pins = ["sha256/AAAA"] }', "3 bytes"),
        ('{ url = "https://kbs", cert = "x" }', "entry 1"),
        (f'{{ url = "https://kbs", pins = ["{PIN}"], cert = """{PEM}""" }}', "pins decide alone"),
        ('{ url = "https://kbs" }, { url = "https://kbs/" }', "twice"),
        (", ".join(f'{{ url = "https://kbs-{n}" }}' for n in range(17)), "more than 16"),
    ],
)
def test_entries_that_cannot_work_are_explained(entry: str, says: str) -> None:
    with pytest.raises(AgentError) as caught:
        config(agent=f"[kbs]\nendpoints = [{entry}]\n")
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert "kbs.endpoints" in caught.value.detail
    assert says in caught.value.detail
    assert "hunter2" not in caught.value.detail


def test_plain_http_is_told_for_each_of_them() -> None:
    text = '[kbs]\nrequire_tls = true\nendpoints = [{ url = "https://a" }, { url = "http://b" }]\n'
    assert any("require_tls" in finding.message for finding in found(agent=text))


def test_they_are_shown_in_one_line() -> None:
    shown = {row.name: row.value for row in rows(config(agent=LIST))}
    assert shown["hub.kbs.endpoints"] == f"{ONE} with 1 pins, {TWO}"


def test_the_limit_for_tokens_can_be_set() -> None:
    made = config(aa=AA, cdh=CDH, agent="[kbs]\ntoken_header_limit = 8192\n")
    assert made.hub.kbs.token_header_limit == made.attester.kbs.token_header_limit == 8192
