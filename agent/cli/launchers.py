"""``attestation-agent``, ``confidential-data-hub``, ``api-server-rest``: upstream's names and flags.

Flags: kata_integration.md 1.7. Each launcher runs its role alone and reaches the others by their sockets.
Usage errors and bad configuration end with a non-zero status and no socket.
"""

from __future__ import annotations

import argparse
import base64
import binascii
from typing import TYPE_CHECKING

from agent import __version__
from agent.cli import text
from agent.cli.sources import add_agent_config, load_files
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.config.model import Attester


def attestation_agent(argv: Sequence[str] | None = None) -> int:
    """The attester role."""
    parser = _parser("attestation-agent", "Attester role of coco-agent: evidence and tokens over ttrpc.")
    parser.add_argument("-a", "--attestation_sock", metavar="ADDRESS", help="unix://<path> to listen on")
    parser.add_argument("-c", "--config-file", "--config_file", metavar="FILE", help="aa.toml or aa.json")
    binding = parser.add_mutually_exclusive_group()
    binding.add_argument(
        "-t", "--initdata-toml", "--initdata_toml", metavar="FILE", help="init-data to bind and to send"
    )
    binding.add_argument(
        "-i", "--initdata-digest", "--initdata_digest", metavar="BASE64", help="init-data digest to bind"
    )
    arguments = parser.parse_args(argv)

    def run() -> int:
        config = load_files(
            arguments.config_file,
            None,
            arguments.agent_config,
            _given({"attester.socket": arguments.attestation_sock}),
            frozenset({"attester"}),
        )
        from agent.cli.run import run_daemon  # noqa: PLC0415  # after the arguments proved good
        from agent.daemon import Role  # noqa: PLC0415

        init_data = None
        if arguments.initdata_toml or arguments.initdata_digest:
            init_data = _bind(arguments, config.attester)
        return run_daemon(config, frozenset({Role.ATTESTER}), init_data=init_data)

    return _guarded(run)


def confidential_data_hub(argv: Sequence[str] | None = None) -> int:
    """The hub role."""
    parser = _parser(
        "confidential-data-hub", "Hub role of coco-agent: resources, sealed secrets, image keys over ttrpc."
    )
    parser.add_argument("-c", "--config", metavar="FILE", help="cdh.toml or cdh.json")
    arguments = parser.parse_args(argv)

    def run() -> int:
        config = load_files(None, arguments.config, arguments.agent_config, {}, frozenset({"hub"}))
        from agent.cli.run import run_daemon  # noqa: PLC0415  # after the arguments proved good
        from agent.daemon import Role  # noqa: PLC0415

        return run_daemon(config, frozenset({Role.HUB}))

    return _guarded(run)


def api_server_rest(argv: Sequence[str] | None = None) -> int:
    """The REST role."""
    parser = _parser("api-server-rest", "REST role of coco-agent, for workloads in the pod.")
    parser.add_argument("-b", "--bind", metavar="IP:PORT", help="address (default: 127.0.0.1:8006)")
    parser.add_argument(
        "-f", "--features", metavar="NAME", help="resource, attestation or all (default: resource)"
    )
    parser.add_argument("-c", "--cdh_addr", metavar="ADDRESS", help="hub's socket, unix://<path>")
    parser.add_argument("-a", "--aa_addr", metavar="ADDRESS", help="attester's socket, unix://<path>")
    arguments = parser.parse_args(argv)

    def run() -> int:
        overrides = {
            "gateway.bind": arguments.bind,
            "gateway.features": arguments.features,
            "gateway.cdh_address": arguments.cdh_addr,
            "gateway.aa_address": arguments.aa_addr,
        }
        config = load_files(None, None, arguments.agent_config, _given(overrides), frozenset({"gateway"}))
        from agent.cli.run import run_daemon  # noqa: PLC0415  # after the arguments proved good
        from agent.daemon import Role  # noqa: PLC0415

        return run_daemon(config, frozenset({Role.GATEWAY}))

    return _guarded(run)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument(
        "-V", "--version", action="version", version=f"Guest Components Version: coco-agent {__version__}"
    )
    add_agent_config(parser)
    return parser


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _bind(arguments: argparse.Namespace, settings: Attester) -> str | None:
    """Bind init-data before any socket is opened; its text, when there is a document."""
    import asyncio  # noqa: PLC0415  # only for those who have init-data

    from agent.clock import Deadline, SystemClock  # noqa: PLC0415
    from agent.config import limits  # noqa: PLC0415
    from agent.tee.binding import bind_digest, bind_document  # noqa: PLC0415

    deadline = Deadline.after(SystemClock(), limits.BIND_DEADLINE)
    if arguments.initdata_toml:
        return asyncio.run(bind_document(arguments.initdata_toml, settings, deadline))
    asyncio.run(bind_digest(_digest(arguments.initdata_digest), settings, deadline))
    return None


def _digest(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise AgentError(ErrorCode.CONFIG_INVALID, "--initdata-digest is not standard base64") from None


def _guarded(run: Callable[[], int]) -> int:
    try:
        return run()
    except AgentError as error:
        return text.fail(error)
