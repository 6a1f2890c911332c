"""Whether our readers are as strict as another program's."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from tests.framing.change import change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.framing.feeding import Message, Outcome

CASES: Final = int(os.environ.get("FRAMING_CASES", "5000"))
"""Changed messages to compare, of each kind and with each program."""


@dataclass(frozen=True)
class Seen:
    """What another program made of a connection's bytes.

    Attributes:
        messages: start and body of each that is whole.
        end: ``open`` while it waits for more; ``closed`` when it ended the connection without a complaint.
    """

    messages: tuple[tuple[str, bytes], ...]
    end: Literal["open", "refused", "closed"]


Excused: TypeAlias = "Callable[[Message], bool]"
"""Whether another verdict on a message is meant. What follows it is not compared."""


def complaint(ours: Outcome, theirs: Seen, excused: Excused) -> str | None:
    """Where ours is less strict or another message; None where it is the same or stricter."""
    for at, message in enumerate(ours.messages):
        if excused(message) or (at == len(theirs.messages) and theirs.end == "closed"):
            return None
        if at == len(theirs.messages):
            return f"{message.start!r} is a message; for them the connection is {theirs.end}"
        if theirs.messages[at] != (message.start, message.body):
            return f"{message.start!r} with {message.body!r} is {theirs.messages[at]!r} for them"
    more = theirs.messages[len(ours.messages) :]
    if more and ours.end in {"idle", "unfinished"}:
        return f"{more[0]!r} is a message for them only"
    return None


def changed(pool: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Neighbours of messages, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - to be repeated
    for _ in range(CASES):
        yield change(draw.choice(pool), pool, draw)
