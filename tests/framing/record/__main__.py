"""The command line."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.framing.record import answerers, senders
from tests.framing.record.tools import Tools
from tests.framing.record.wire import write


def main() -> None:
    """Record all anew."""
    tools = Tools(Path(sys.argv[1]))
    tools.prepare()
    folder = Path(__file__).parents[1]
    found = list(answerers.record(tools))
    answers = write(folder / "recorded_answers.jsonl", (each for each in found if each.start.isdecimal()))
    sent = [*senders.record(tools), *(each for each in found if not each.start.isdecimal())]
    requests = write(folder / "recorded_requests.jsonl", sent)
    print(f"{requests} requests, {answers} answers")


if __name__ == "__main__":
    main()
