"""A launcher's role in a process of its own."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from agent.cli import text
from agent.cli.launchers import UsageError, read
from agent.cli.sources import begin
from agent.errors import AgentError
from agent.roles import Role

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(program: str, arguments: Sequence[str]) -> int:
    """Run a program's role in this process until a signal; the exit status.

    A wrong command line is 2, a configuration that cannot be served and init-data that is not the
    hardware's 1. Neither leaves a socket.
    """
    try:
        launch = read(program, arguments)
        from agent.cli.run import run_daemon  # noqa: PLC0415  # after the arguments proved good

        return run_daemon(
            launch.config,
            frozenset({launch.role}),
            begin=partial(
                begin,
                launch.config,
                launch.arguments,
                lambda file: read(program, arguments, init_data=file).config,
                own=launch.role is not Role.ATTESTER,
            ),
        )
    except UsageError as error:
        sys.stderr.write(str(error))
        return text.EXIT_USAGE
    except AgentError as error:
        return text.fail(error)
