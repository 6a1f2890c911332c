"""The README's command list is what the program offers."""

from __future__ import annotations

import re
from pathlib import Path

from agent.cli.main import COMMANDS, build_parser

README = Path(__file__).resolve().parents[3] / "README.md"


def command_table() -> dict[str, str]:
    listed = README.read_text().split("<!-- commands:")[1].split("<!-- end -->")[0]
    return dict(re.findall(r"^\| `coco-agent (\S+)` \| (.+) \|$", listed, re.MULTILINE))


def test_the_readme_lists_every_command_with_its_help_text() -> None:
    assert command_table() == {command.name: command.summary for command in COMMANDS}


def test_the_list_of_help_is_the_same() -> None:
    shown = build_parser().format_help()
    for name, summary in command_table().items():
        assert re.search(rf"^\s+{name}\s", shown, re.MULTILINE)
        assert " ".join(summary.split()[:3]) in re.sub(r"\s+", " ", shown)
