"""Every command explains itself."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import launch
from agent.cli.main import COMMANDS, Command, build_parser, main

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_says_what_it_does_and_shows_an_example(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command.name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert command.summary[1:] in " ".join(shown.split())
    assert f"example:\n  {command.example}" in shown


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_is_accepted_by_the_parser(command: Command) -> None:
    words = shlex.split(command.example, posix=True)
    if words[0] == "eval":
        words = shlex.split(words[1].strip("$()"))
    words = words[: words.index(">")] if ">" in words else words
    arguments = build_parser().parse_args(words[1:])
    assert arguments.command == command.name


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        (
            "attestation-agent",
            ["--attestation_sock", "--config-file", "--initdata-toml", "--initdata-digest", "--version"],
        ),
        ("confidential-data-hub", ["-c"]),
        ("api-server-rest", ["--bind", "--features", "--cdh_addr", "--aa_addr"]),
    ],
)
def test_launchers_take_upstreams_flags(
    program: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.launch(program, ["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for flag in flags:
        assert flag in shown


def test_launchers_print_upstreams_version_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch.launch("api-server-rest", ["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("Guest Components Version: ")


def test_no_command_and_help_import_nothing_heavy() -> None:
    heavy = {"aiohttp", "asyncio", "cryptography", "google.protobuf", "prometheus_client"}
    program = (
        "import sys\nfrom agent.cli import main, launchers\nmain.main(['explain', 'NO_TEE'])\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stderr.strip() == "[]"


def test_a_launcher_imports_next_to_nothing_before_it_knows_whether_a_daemon_is_there() -> None:
    program = "bare = set(sys.modules); import agent.cli.launch; print(*sorted(set(sys.modules) - bare))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(ROOT)!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {"agent", "agent.cli", "agent.cli.launch", "agent.handover"}
    loaded = set(done.stdout.split())
    assert ours <= loaded
    heavy = {"typing", "argparse", "json", "logging", "asyncio", "dataclasses", "tomllib", "tomli", "re"}
    assert not loaded & heavy
    assert len(loaded) < 40
