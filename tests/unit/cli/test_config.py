"""``coco-agent config check``: what its exit status says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent.cli.main import main
from agent.tee.initdata_transport import build

if TYPE_CHECKING:
    from pathlib import Path

AA = '[token_configs.kbs]\nurl = "https://kbs.example:8080"\n'


@pytest.mark.parametrize(
    ("text", "plain", "strict"),
    [(AA, 0, 0), (f"{AA}unknown = 1\n", 0, 1), (AA.replace("configs", "confgs"), 1, 1), ("a = [", 1, 1)],
)  # fmt: skip
def test_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, plain: int, strict: int
) -> None:
    file = tmp_path / "aa.toml"
    file.write_text(text)
    file.chmod(0o600)
    assert main(["config", "check", str(file)]) == plain
    assert main(["config", "check", "--strict", str(file)]) == strict
    assert main(["config", "check", "--strict", "--json", str(file)]) == strict
    capsys.readouterr()


def test_show_reads_the_agent_toml_of_init_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "initdata.toml"
    file.write_bytes(build({"agent.toml": '[gateway]\nfeatures = "all"\n'}))
    file.chmod(0o600)
    assert main(["config", "show", "--json", "--initdata-toml", str(file)]) == 0
    shown = {row["name"]: row for row in json.loads(capsys.readouterr().out)["values"]}
    assert shown["gateway.features"]["value"] == "all"
    assert shown["gateway.features"]["origin"] == f"init-data ({file}[agent.toml])"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[control]\nlaunchers = false\n", "cannot be set in init-data"),
        ("[kbs]\nulr = 1\n", "did you mean kbs.url?"),
        ('[gateway]\nfeatures = "none"\n', "gateway.features"),
    ],
)
def test_check_reads_the_agent_toml_of_init_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    file = tmp_path / "initdata.toml"
    file.write_bytes(build({"agent.toml": text}))
    file.chmod(0o600)
    assert main(["config", "check", str(file)]) == 1
    assert says in capsys.readouterr().out
    part = tmp_path / "agent.toml"
    part.write_text(text)
    assert main(["initdata", "build", str(part)]) == 1
    assert says in capsys.readouterr().err
    assert main(["initdata", "inspect", str(file)]) == 1
    assert says in capsys.readouterr().out
