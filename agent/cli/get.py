"""``coco-agent get``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli import connect, text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("uri", metavar="URI", help="resource URI, e.g. kbs:///default/key/1")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write to a new file, mode 0600, not to stdout"
    )
    connect.add_hub_options(parser)


def run(arguments: Namespace) -> int:
    """Fetch and write the plaintext."""
    fetched = connect.ask_hub(
        arguments.socket,
        arguments.timeout,
        lambda hub, deadline: hub.get_resource(arguments.uri, deadline),
    )
    connect.write_output(fetched.secret.reveal(), arguments.output)
    return text.EXIT_OK
