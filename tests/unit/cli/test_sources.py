"""How a daemon begins: init-data is read once, bound, and its agent.toml is used."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.cli import sources
from agent.cli.sources import begin
from agent.config.model import Attester, Config, Features
from agent.errors import AgentError, ErrorCode
from agent.tee import binding
from agent.tee.initdata_transport import build

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.assemble import InitDataFile

AGENT = '[gateway]\nfeatures = "all"\n'


class Guest:
    """A guest without hardware, in which the test says what the hardware vouches for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "initdata.toml"
        self.digests: list[bytes] = []
        self.answer: bool | AgentError = True
        self.asked: list[InitDataFile] = []
        monkeypatch.setattr(binding, "bind_digest", self._bind)
        monkeypatch.setattr(sources, "INIT_DATA_FILE", str(self.path))

    async def _bind(self, digest: bytes, settings: Attester, deadline: object) -> bool:
        self.digests.append(digest)
        # From here on the file is another one: whoever reads it again would be deceived.
        self.path.write_bytes(build({"agent.toml": '[gateway]\nfeatures = "attestation"\n'}))
        if isinstance(self.answer, AgentError):
            raise self.answer
        return self.answer

    def put(self, **files: str) -> None:
        self.path.write_bytes(build({f"{name}.toml": text for name, text in files.items()}))
        self.path.chmod(0o600)

    def again(self, file: InitDataFile) -> Config:
        self.asked.append(file)
        gateway = Config().gateway
        table = file.document.tree["gateway"]
        assert isinstance(table, dict)
        return Config(gateway=replace(gateway, features=Features(table["features"])))

    def begin(self, *, toml: bool = True, own: bool = False, digest: str | None = None) -> sources.Beginning:
        given = Namespace(initdata_toml=str(self.path) if toml else None, initdata_digest=digest)
        return begin(Config(), given, self.again, own=own)


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(tmp_path, monkeypatch)


@pytest.mark.parametrize("bound", [True, False])
def test_agent_toml_comes_from_the_bytes_that_were_bound(guest: Guest, bound: bool) -> None:
    guest.put(agent=AGENT)
    guest.answer = bound
    began = guest.begin()
    assert began.config.gateway.features is Features.ALL
    assert began.text is not None
    assert AGENT in began.text
    assert began.init_data == guest.asked[0]
    assert guest.asked[0].bound is bound
    assert guest.asked[0].document.path == f"{guest.path}[agent.toml]"
    assert len(guest.digests) == 1


def test_without_agent_toml_the_configuration_is_the_same(guest: Guest) -> None:
    guest.put(aa="")
    began = guest.begin()
    assert began.text is not None
    assert (began.init_data, guest.asked, len(guest.digests)) == (None, [], 1)


def test_init_data_that_is_not_the_hardwares_is_not_read_further(guest: Guest) -> None:
    guest.put(agent="[")
    guest.answer = AgentError(ErrorCode.INIT_DATA_MISMATCH)
    with pytest.raises(AgentError) as caught:
        guest.begin()
    assert caught.value.code is ErrorCode.INIT_DATA_MISMATCH
    assert not guest.asked


def test_a_broken_agent_toml_stops_the_start(guest: Guest) -> None:
    guest.put(agent="[")
    with pytest.raises(AgentError, match=r"initdata\.toml\[agent\.toml\]: not TOML"):
        guest.begin()


def test_a_digest_alone_brings_no_settings(guest: Guest) -> None:
    guest.put(agent=AGENT)
    assert guest.begin(toml=False, digest="AAAA").init_data is None
    assert guest.digests == [bytes(3)]


def test_a_role_of_its_own_binds_katas_document_for_its_agent_toml_only(guest: Guest) -> None:
    assert guest.begin(toml=False, own=True).init_data is None, "there is none"
    guest.put(aa="", cdh="")
    assert guest.begin(toml=False, own=True).text is None
    assert not guest.digests, "nothing in it is for this role"
    guest.put(agent=AGENT)
    assert guest.begin(toml=False, own=True).config.gateway.features is Features.ALL
    assert len(guest.digests) == 1


def test_an_attester_without_init_data_binds_nothing(guest: Guest) -> None:
    guest.put(agent=AGENT)
    assert guest.begin(toml=False) == sources.Beginning(Config())
    assert not guest.digests
