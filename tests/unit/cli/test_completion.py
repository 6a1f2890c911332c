"""Shell completion."""

from __future__ import annotations

import subprocess

import pytest

from agent.cli.main import COMMANDS, main


def complete(script: str, *words: str) -> list[str]:
    """What a real bash offers for a command line."""
    listed = " ".join(f"'{word}'" for word in words)
    words_line = f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}"
    program = f"{script}\n{words_line}; _coco_agent; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", "bash"]) == 0
    return capsys.readouterr().out


def test_bash_offers_every_command(script: str) -> None:
    assert set(complete(script, "coco-agent", "")) >= {command.name for command in COMMANDS}


def test_bash_offers_the_options_of_a_command(script: str) -> None:
    assert complete(script, "coco-agent", "serve", "--aa") == ["--aa-config"]
    assert complete(script, "coco-agent", "config", "sh") == ["show"]
    assert complete(script, "coco-agent", "doctor", "--no") == ["--node"]
