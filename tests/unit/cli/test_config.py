"""``coco-agent config check``: what its exit status says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.cli.main import main

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
