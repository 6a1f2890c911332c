"""``coco-agent serve``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agent import readahead
from agent.cli.sources import ALL_ROLES, add_config_options, add_initdata_options, begin, load_config

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_config_options(parser)
    add_initdata_options(parser)
    parser.add_argument(
        "--role",
        action="append",
        choices=sorted(ALL_ROLES),
        help="serve only this role, repeatable; the others are reached by their sockets (default: all)",
    )


def run(arguments: Namespace) -> int:
    """Serve in the foreground until a signal."""
    readahead.begin()
    roles = frozenset(arguments.role or ALL_ROLES)
    config = load_config(arguments, roles)
    from agent.cli.run import run_daemon  # noqa: PLC0415  # after the configuration proved good
    from agent.roles import Role  # noqa: PLC0415

    again = partial(load_config, arguments, roles)
    return run_daemon(
        config, frozenset(Role(name) for name in roles), begin=partial(begin, config, arguments, again)
    )
