"""``coco-agent``: the parser, and nothing heavy before a command is chosen."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import msgspec

from agent import __version__
from agent.cli import text
from agent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(msgspec.Struct, frozen=True):
    """One command of the program.

    Attributes:
        name: as typed.
        module: module with ``configure(parser)`` and ``run(arguments) -> exit status``.
        summary: one line for the list.
        example: one line that works.
    """

    name: str
    module: str
    summary: str
    example: str


COMMANDS = (
    Command(
        "serve",
        "agent.cli.serve",
        "run the agent: all three roles in one process",
        "coco-agent serve --aa-config aa.toml --cdh-config cdh.toml",
    ),
    Command(
        "get",
        "agent.cli.get",
        "fetch a resource through the running agent",
        "coco-agent get kbs:///default/key/1 > key.bin",
    ),
    Command(
        "unseal",
        "agent.cli.unseal",
        "open a sealed secret through the running agent",
        "coco-agent unseal secret.sealed",
    ),
    Command(
        "seal",
        "agent.cli.seal",
        "make a signed sealed secret, and the key pair that signs it",
        "coco-agent seal vault kbs:///default/db/password --key signing-private.json",
    ),
    Command(
        "keyprovider",
        "agent.cli.keyprovider",
        "wrap layer keys for image owners, and register the keys at a KBS",
        "coco-agent keyprovider --kbs https://kbs.example:8080 --auth-private-key admin.pem",
    ),
    Command(
        "image",
        "agent.cli.image",
        "encrypt, decrypt or inspect the layers of an OCI image layout",
        "coco-agent image decrypt app-encrypted:latest app",
    ),
    Command(
        "token",
        "agent.cli.token",
        "attest, and show what the attestation token says",
        "coco-agent token",
    ),
    Command(
        "evidence",
        "agent.cli.evidence",
        "collect evidence through the running agent",
        "coco-agent evidence --hex 00112233",
    ),
    Command(
        "info",
        "agent.cli.info",
        "show the platform and how it was detected",
        "coco-agent info",
    ),
    Command(
        "doctor",
        "agent.cli.doctor",
        "look at everything evidence and keys depend on, and say what to do",
        "coco-agent doctor --aa-config aa.toml --bundle support.tar.gz",
    ),
    Command(
        "initdata",
        "agent.cli.initdata",
        "make, hash or explain init-data",
        "coco-agent initdata build aa.toml cdh.toml policy.rego",
    ),
    Command(
        "inspect",
        "agent.cli.inspect",
        "show and verify evidence, quotes, reports and event logs",
        "coco-agent inspect report.bin --chain chain.pem",
    ),
    Command(
        "cache",
        "agent.cli.cache",
        "list or drop resources the running agent keeps in memory",
        "coco-agent cache list",
    ),
    Command(
        "explain",
        "agent.cli.explain",
        "print cause and next step of an error code",
        "coco-agent explain RESOURCE_DENIED",
    ),
    Command(
        "config",
        "agent.cli.config",
        "check configuration files, or show the effective configuration",
        "coco-agent config check aa.toml cdh.toml",
    ),
    Command(
        "dev",
        "agent.cli.dev",
        "development KBS and agent in one process, on loopback",
        "coco-agent dev --resource default/key/1=hello",
    ),
    Command(
        "completion",
        "agent.cli.completion",
        "print a completion script for bash or zsh",
        'eval "$(coco-agent completion bash)"',
    ),
)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; commands other than ``only`` are listed but not configured, so not imported.

    Args:
        only: the command about to run, or None to configure all of them.
    """
    parser = argparse.ArgumentParser(
        prog="coco-agent",
        description="Guest-side attestation agent and Confidential Data Hub.",
        epilog="Each command explains itself: coco-agent COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"coco-agent {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        child = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if only in {None, command.name}:
            import_module(command.module).configure(child)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success, 1 when the command failed, 2 for wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    named = next((word for word in words if not word.startswith("-")), "")
    arguments = build_parser(only=named).parse_args(words)
    module = next(command.module for command in COMMANDS if command.name == arguments.command)
    try:
        status: int = import_module(module).run(arguments)
    except AgentError as error:
        return text.fail(error, as_json=getattr(arguments, "json", False))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return text.EXIT_FAILED
    return status
