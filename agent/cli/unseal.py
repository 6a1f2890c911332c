"""``coco-agent unseal``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.config import limits

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("file", metavar="FILE", help="file with the sealed secret, or - for standard input")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write to a new file, mode 0600, not to stdout"
    )
    connect.add_hub_options(parser)


def run(arguments: Namespace) -> int:
    """Unseal and write the plaintext; on failure nothing is written."""
    sealed = connect.read_input(arguments.file, limits.SEALED_MAX)
    secret = connect.ask_hub(
        arguments.socket,
        arguments.timeout,
        lambda hub, deadline: hub.unseal(sealed, deadline),
    )
    connect.write_output(secret.reveal(), arguments.output)
    return text.EXIT_OK
