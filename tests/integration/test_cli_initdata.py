"""`coco-agent initdata`: what an operator pastes into a pod, and gets explained from one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.support import run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

AA = '[token_configs.kbs]\nurl = "https://kbs.example:8080"\n'


async def initdata(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    status, output, errors = await run("coco-agent", "initdata", *arguments, stdin=given)
    return status, output.decode(), errors


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "aa.toml").write_text(AA)
    (tmp_path / "cdh.toml").write_text('[kbc]\nname = "cc_kbc"\nurl = "https://kbs.example:8080"\n')
    (tmp_path / "policy.rego").write_text("package agent_policy\n")
    return tmp_path


async def test_what_build_prints_inspect_explains(files: Path) -> None:
    names = ("aa.toml", "cdh.toml", "policy.rego")
    code, value, said = await initdata("build", *(str(files / name) for name in names))
    assert code == 0
    code, shown, _ = await initdata("inspect", "-", given=value.encode())
    assert code == 0
    assert "annotation" in shown
    assert "good; key broker https://kbs.example:8080" in shown
    assert "policy, applied by kata-agent" in shown
    assert said.split()[1] in shown


async def test_digest_and_build_agree(files: Path) -> None:
    code, document, said = await initdata("build", "--toml", str(files / "aa.toml"))
    assert code == 0
    code, shown, _ = await initdata("digest", "-", "--json", given=document.encode())
    assert json.loads(shown)["digest"] == said.split()[1]


async def test_a_name_of_its_own(files: Path) -> None:
    _, value, _ = await initdata("build", "--json", f"aa.toml={files / 'cdh.toml'}")
    assert '"aa.toml" = ' in json.loads(value)["document"]


async def test_a_file_the_agent_cannot_use_is_said(files: Path) -> None:
    (files / "aa.toml").write_text("[token_configs.kbs]\nurl = 7\n")
    _, value, _ = await initdata("build", "--force", str(files / "aa.toml"))
    code, shown, _ = await initdata("inspect", "-", given=value.encode())
    assert code == 1
    assert "INVALID" in shown


async def test_another_algorithm_warns_of_vtpms(files: Path) -> None:
    _, value, _ = await initdata("build", "--algorithm", "sha384", str(files / "aa.toml"))
    code, shown, _ = await initdata("inspect", "-", given=value.encode())
    assert code == 0
    assert "sha256 only" in shown
    assert "does not fit" in shown
