"""``coco-agent cache``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list",
        help="names, sizes and times of kept resources; never their content",
        description="List what the running agent keeps in memory.",
        epilog="example:\n  coco-agent cache list",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drop = actions.add_parser(
        "drop",
        help="overwrite one kept resource, or all",
        description="Make the running agent forget, so that the next request asks the broker.",
        epilog="example:\n  coco-agent cache drop kbs:///default/key/1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drop.add_argument("uri", metavar="URI", nargs="?", help="resource URI")
    drop.add_argument("--all", action="store_true", help="everything")
    for action in (listing, drop):
        action.add_argument("--json", action="store_true", help="print JSON")
        connect.add_control_options(action)


def run(arguments: Namespace) -> int:
    """List or drop."""
    return _list(arguments) if arguments.action == "list" else _drop(arguments)


def _list(arguments: Namespace) -> int:
    answer = connect.ask_control(
        arguments.socket, arguments.timeout, lambda control, deadline: control.list_cache(deadline)
    )
    if arguments.json:
        entries = [
            {
                "name": entry.Name,
                "size": entry.Size,
                "age": round(entry.Age, 3),
                "left": round(entry.Left, 3),
                "state": entry.State,
            }
            for entry in answer.Entries
        ]
        text.print_json({"entries": entries, "more": answer.More})
        return text.EXIT_OK
    rows = [
        (entry.State, str(entry.Size), f"{entry.Age:.0f} s", f"{entry.Left:.0f} s", entry.Name)
        for entry in answer.Entries
    ]
    print(text.table(rows, ("STATE", "BYTES", "AGE", "LEFT", "NAME")) if rows else "nothing is kept")
    if answer.More:
        print(f"and {answer.More} more")
    return text.EXIT_OK


def _drop(arguments: Namespace) -> int:
    if arguments.all == (arguments.uri is not None):
        raise AgentError(ErrorCode.INVALID_REQUEST, "name one URI, or --all")
    dropped = connect.ask_control(
        arguments.socket,
        arguments.timeout,
        lambda control, deadline: control.drop_cache(arguments.uri or "", deadline),
    )
    if arguments.json:
        text.print_json({"dropped": dropped})
    else:
        print(f"{dropped} dropped")
    return text.EXIT_OK
