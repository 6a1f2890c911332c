"""``coco-agent completion``: made from the parser, so it cannot be out of date."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from agent.cli import text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_SCRIPT = """\
_coco_agent() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words="{commands} --help --version"
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    [ "$COMP_CWORD" = 1 ] && words="{commands} --help --version"
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [ ${{#COMPREPLY[@]}} = 0 ] && COMPREPLY=($(compgen -f -- "$word"))
    return 0
}}
complete -F _coco_agent coco-agent
"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="which shell")


def run(arguments: Namespace) -> int:
    """Print the script."""
    from agent.cli.main import build_parser  # noqa: PLC0415  # main imports this module by name

    if arguments.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(script(build_parser()), end="")
    return text.EXIT_OK


def script(parser: ArgumentParser) -> str:
    """A bash completion script for every command, option and choice of a parser."""
    commands = _children(parser)
    cases = "\n".join(
        f'        {name}) words="{" ".join(_words(child))}" ;;' for name, child in commands.items()
    )
    return _SCRIPT.format(commands=" ".join(commands), cases=cases)


def _children(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    for action in parser._actions:  # noqa: SLF001  # argparse offers no other way to walk a parser
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def _words(parser: ArgumentParser) -> list[str]:
    words: list[str] = []
    for action in parser._actions:  # noqa: SLF001
        words += action.option_strings
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, child in action.choices.items():
                words += [name, *_words(child)]
        elif action.choices:
            words += [str(choice) for choice in action.choices]
    return list(dict.fromkeys(words))
