"""``coco-agent dev``."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli import text
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from agent.devkit.guests import SimulatedGuest
    from agent.devkit.playground import Playground


SAMPLE: Final = "sample"
TEES: Final = (SAMPLE, "snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "tpm")
"""As in ``agent.devkit.guests``, which is not imported for ``--help``."""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="resource to seed, repeatable; VALUE @FILE reads a file",
    )
    parser.add_argument("--port", type=int, default=0, help="REST port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--kbs-port", type=int, default=0, help="KBS port on 127.0.0.1 (default: a free one)")
    parser.add_argument(
        "--grpc",
        default="",
        metavar="ADDRESS",
        help="gRPC key provider, such as 127.0.0.1:50001 (default: none)",
    )
    parser.add_argument(
        "--tee",
        default=SAMPLE,
        choices=TEES,
        help="simulate this TEE: its attester runs as in a real guest (default: sample)",
    )
    parser.add_argument(
        "--features",
        default="all",
        choices=("resource", "attestation", "all"),
        help="REST routes (default: all)",
    )


def run(arguments: Namespace) -> int:
    """Run both until interrupted."""
    try:
        import agent.devkit.playground  # noqa: F401, PLC0415  # left out of the guest image
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("agent."):
            detail = "the development kit is not part of this image"
            raise AgentError(ErrorCode.SAMPLE_REFUSED, detail) from None
        print(f"coco-agent dev needs {missing.name}. Run: pip install '.[devkit]'", file=sys.stderr)
        return text.EXIT_FAILED
    resources = dict(_resource(item) for item in arguments.resource or ["default/key/1=hello"])
    from agent.devkit.guests import MissingToolError  # noqa: PLC0415

    try:
        asyncio.run(_serve(arguments, resources))
    except MissingToolError as missing:
        print(f"cannot simulate this TEE: {missing}", file=sys.stderr)
        return text.EXIT_FAILED
    return text.EXIT_OK


def _resource(item: str) -> tuple[str, bytes]:
    path, separator, value = item.partition("=")
    if not separator or path.count("/") != 2:
        raise AgentError(ErrorCode.INVALID_REQUEST, "--resource wants <repository>/<type>/<tag>=VALUE")
    if value.startswith("@"):
        try:
            return path, Path(value[1:]).read_bytes()
        except OSError as error:
            raise AgentError(ErrorCode.INVALID_REQUEST, f"{value[1:]}: {error.strerror}") from error
    return path, value.encode()


async def _serve(arguments: Namespace, resources: dict[str, bytes]) -> None:
    from agent.config.model import Config, Features  # noqa: PLC0415  # keeps --help light
    from agent.devkit.guests import guest as simulated  # noqa: PLC0415
    from agent.devkit.playground import playground  # noqa: PLC0415
    from agent.observe.logs import setup  # noqa: PLC0415

    setup(Config().observe)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncExitStack() as stack:
        guest = None
        if arguments.tee != SAMPLE:
            guest = await stack.enter_async_context(simulated(arguments.tee))
        place = await stack.enter_async_context(
            playground(
                port=arguments.port,
                kbs_port=arguments.kbs_port,
                features=Features(arguments.features),
                guest=guest,
                grpc=arguments.grpc,
            )
        )
        for path, value in resources.items():
            place.kbs.put(path, value)
        print(_banner(place, next(iter(resources)), guest), flush=True)
        await stopped.wait()


def _banner(place: Playground, first: str, guest: SimulatedGuest | None) -> str:
    grpc = f"  grpc    {place.daemon.grpc_address}\n" if place.daemon.grpc_address else ""
    if guest is None:
        what = (
            "Development KBS and agent with SAMPLE evidence. It proves nothing: never use it in production."
        )
    else:
        what = (
            f"Development KBS and agent in a SIMULATED {guest.tee} guest. Its evidence is signed by "
            "throw-away roots that\nthis KBS alone believes. It proves nothing: never use it in production.\n"
            f"  guest   {guest.sysroot}"
        )
    return (
        f"{what}\n"
        f"  KBS     {place.kbs.url}\n"
        f"  hub     {place.hub_socket}\n"
        f"  agent   {place.attester_socket}\n"
        f"{grpc}"
        "try:\n"
        f"  curl {place.rest}/cdh/resource/{first}\n"
        f"  curl '{place.rest}/aa/evidence?runtime_data=hello'\n"
        f"  curl {place.rest}/metrics\n"
        f"  coco-agent get kbs:///{first} --socket {place.hub_socket}\n"
        f"  curl --data-binary @FILE {place.kbs.url}/kbs/v0/resource/default/key/2\n"
        "Ctrl-C stops both."
    )
