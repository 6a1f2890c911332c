"""Reading files at the edge."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from agent.config.load import load
from agent.config.model import Config, Origin, Source
from agent.errors import AgentError, ErrorCode

from .support import AA, CDH, PEM, URL

if TYPE_CHECKING:
    from pathlib import Path


def read(**files: Path | str) -> Config:
    paths = {name: str(files[name]) if name in files else None for name in ("aa", "cdh", "agent")}
    return load(aa=paths["aa"], cdh=paths["cdh"], agent=paths["agent"], environ={}, cmdline="")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_all_three_files(tmp_path: Path) -> None:
    made = read(
        aa=write(tmp_path / "aa.toml", AA),
        cdh=write(tmp_path / "cdh.json", f'{{"kbc": {{"name": "cc_kbc", "url": "{URL}"}}}}'),
        agent=write(tmp_path / "agent.toml", "[kbs]\nrequire_tls = true\n"),
    )
    assert made.attester.kbs == made.hub.kbs
    assert made.origins["hub.kbs.url"] == Origin(Source.FILE, str(tmp_path / "cdh.json"))
    assert not made.warnings


def test_an_empty_attester_file(tmp_path: Path) -> None:
    assert read(aa=write(tmp_path / "aa.toml", "")) == Config()


def test_a_name_without_extension_is_also_tried_with_each(tmp_path: Path) -> None:
    write(tmp_path / "cdh.toml", CDH)
    assert read(cdh=tmp_path / "cdh").hub.kbs.url == URL


def test_dots_in_a_path_are_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "aa.toml", AA)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert read(aa="../aa.toml").attester.kbs.url == URL
    monkeypatch.chdir(tmp_path)
    assert read(aa="./aa.toml").attester.kbs.url == URL


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="no such file") as caught:
        read(aa=tmp_path / "aa.toml")
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert str(tmp_path / "aa.toml") in caught.value.detail


def test_a_certificate_file(tmp_path: Path) -> None:
    agent = write(tmp_path / "agent.toml", f'[kbs]\ncert_file = "{tmp_path}/kbs.pem"\n')
    with pytest.raises(AgentError, match=r"kbs\.cert_file.*no such file"):
        read(agent=agent)
    write(tmp_path / "kbs.pem", PEM)
    assert read(agent=agent).attester.kbs.extra_roots == PEM
    write(tmp_path / "kbs.pem", "")
    with pytest.raises(AgentError, match="empty"):
        read(agent=agent)
    (tmp_path / "kbs.pem").write_bytes(b"\xff")
    with pytest.raises(AgentError, match="PEM"):
        read(agent=agent)


@pytest.mark.parametrize("name", ["aa.toml", "kbs.pem"])
def test_a_planted_link_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "elsewhere", AA)
    agent = write(tmp_path / "agent.toml", f'[kbs]\ncert_file = "{tmp_path}/kbs.pem"\n')
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AgentError) as caught:
        read(aa=tmp_path / "aa.toml") if name == "aa.toml" else read(agent=agent)
    assert caught.value.code is ErrorCode.FILE_UNSAFE


def test_a_file_others_may_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "aa.toml", AA)
    path.chmod(0o666)
    with pytest.raises(AgentError) as caught:
        read(aa=path)
    assert caught.value.code is ErrorCode.FILE_UNSAFE


@pytest.mark.parametrize("path", ["", ".", "/", "\0"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(AgentError):
        read(aa=path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aa.toml", 0o600)
    with pytest.raises(AgentError, match="regular"):
        read(aa=tmp_path / "aa.toml")
