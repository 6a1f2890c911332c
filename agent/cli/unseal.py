"""``coco-agent unseal``."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.cli import connect, text
from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from agent.clock import Deadline
    from agent.secret import Secret
    from agent.serve.ttrpc.remote import RemoteHub

_SUFFIX = ".sealed"


class Item(msgspec.Struct, frozen=True):
    """One sealed secret.

    Attributes:
        name: as the user named it; ``-:2`` for the second line of standard input.
        sealed: its text.
        problem: why it could not be read.
    """

    name: str
    sealed: bytes
    problem: AgentError | None = None


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="file with a sealed secret, or - for standard input with one on each line",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write to a new file, mode 0600, not to stdout; for one secret"
    )
    parser.add_argument(
        "-d",
        "--output-dir",
        metavar="DIR",
        help="write each to a new file of its name there, without .sealed, mode 0600; print a line for each",
    )
    parser.add_argument(
        "--json", action="store_true", help="print an array: name, and value (base64) or code, for each"
    )
    connect.add_hub_options(parser)


def run(arguments: Namespace) -> int:
    """Unseal and write the plaintexts; of one that fails nothing is written, and the others go on."""
    items = _items(arguments.files)
    chosen = [bool(arguments.output), bool(arguments.output_dir), arguments.json].count(True)
    if chosen > 1:
        raise AgentError(ErrorCode.INVALID_REQUEST, "--output, --output-dir and --json exclude each other")
    if len(items) > 1 and not (arguments.output_dir or arguments.json):
        raise AgentError(ErrorCode.INVALID_REQUEST, "several secrets need --output-dir or --json")
    targets = _targets(items, arguments.output_dir) if arguments.output_dir else []
    results = connect.ask_hub(
        arguments.socket, arguments.timeout, lambda hub, deadline: _unseal_all(hub, items, deadline)
    )
    if arguments.json:
        text.print_json([_as_json(item, result) for item, result in zip(items, results, strict=True)])
    elif targets:
        results = [_written(result, target) for result, target in zip(results, targets, strict=True)]
        print(text.table([_row(*row) for row in zip(items, results, targets, strict=True)], _HEADER))
    else:
        return _one(results[0], arguments.output)
    return text.EXIT_FAILED if any(isinstance(result, AgentError) for result in results) else text.EXIT_OK


def _items(names: Sequence[str]) -> list[Item]:
    if names.count("-") > 1:
        raise AgentError(ErrorCode.INVALID_REQUEST, "standard input can be read once")
    items: list[Item] = []
    for name in names:
        if name != "-":
            items.append(_from_file(name))
            continue
        lines = [
            line for line in connect.read_input(name, limits.UNSEAL_MAX_BODY).splitlines() if line.strip()
        ]
        several = len(lines) > 1
        items += [Item(f"-:{n}" if several else "-", line) for n, line in enumerate(lines or [b""], start=1)]
    if len(items) > limits.UNSEAL_MAX_ITEMS:
        detail = f"{len(items)} secrets; at most {limits.UNSEAL_MAX_ITEMS} at once"
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, detail)
    return items


def _from_file(name: str) -> Item:
    try:
        return Item(name, connect.read_input(name, limits.SEALED_MAX))
    except AgentError as error:  # the others go on
        return Item(name, b"", error)


def _targets(items: Sequence[Item], folder: str) -> list[Path]:
    """Where the plaintexts go; settled before anything is unsealed."""
    names = [
        f"stdin{item.name.removeprefix('-').replace(':', '-')}"
        if item.name.startswith("-:") or item.name == "-"
        else Path(item.name).name.removesuffix(_SUFFIX)
        for item in items
    ]
    if len(set(names)) < len(names) or not all(names):
        raise AgentError(ErrorCode.INVALID_REQUEST, "two secrets would be written to one file")
    return [Path(folder) / name for name in names]


async def _unseal_all(hub: RemoteHub, items: Sequence[Item], deadline: Deadline) -> list[Secret | AgentError]:
    async def one(item: Item) -> Secret | AgentError:
        if item.problem is not None:
            return item.problem
        try:
            return await hub.unseal(item.sealed, deadline)
        except AgentError as error:
            return error

    return list(await asyncio.gather(*(one(item) for item in items)))


def _written(result: Secret | AgentError, target: Path) -> Secret | AgentError:
    if isinstance(result, AgentError):
        return result
    try:
        connect.write_output(result.reveal(), str(target))
    except AgentError as error:
        return error
    return result


def _one(result: Secret | AgentError, output: str | None) -> int:
    if isinstance(result, AgentError):
        raise result
    connect.write_output(result.reveal(), output)
    return text.EXIT_OK


_HEADER = ("secret", "result", "file")


def _row(item: Item, result: Secret | AgentError, target: Path) -> tuple[str, str, str]:
    if isinstance(result, AgentError):
        # What is wrong with a file of the user's, no code says.
        own = item.problem is not None or result.code is ErrorCode.INVALID_REQUEST
        return item.name, result.code.name, (result.detail if own else "") or result.hint
    return item.name, "ok", str(target)


def _as_json(item: Item, result: Secret | AgentError) -> dict[str, str]:
    if isinstance(result, AgentError):
        message, hint = text.words(result)
        said = {"name": item.name, "code": result.code.name, "message": message, "hint": hint}
        return {**said, "detail": result.detail} if result.detail else said
    return {"name": item.name, "value": base64.b64encode(result.reveal()).decode()}
