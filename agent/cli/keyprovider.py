"""``coco-agent keyprovider``."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.config import limits, urls
from agent.config.model import CDH_SOCKET
from agent.errors import AgentError, ErrorCode
from agent.secret import Secret

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import AsyncIterator

    from agent.clock import Deadline
    from agent.hub.image_owner import ImageOwner
    from agent.hub.image_wrap import Parameters
    from agent.kbs.admin import ResourceWriter
    from agent.serve.grpc.services import WrapKey

_DEFAULT = "127.0.0.1:50000"
_USE = """\
Image tools find it by the JSON file that OCICRYPT_KEYPROVIDER_CONFIG names:
  {"key-providers":{"attestation-agent":{"grpc":"127.0.0.1:50000"}}}
and are told --encryption-key provider:attestation-agent:PARAMETERS, joined by '::'
  keyid=URI        where guests find the key, kbs:///<repository>/<type>/<tag>
  keypath=FILE     32 raw bytes; without it a random key, which needs --kbs
  algorithm=NAME   A256GCM (default) or A256CTR"""
_PEM_MAX = 4 * limits.KIB
_KEY_MAX = 64


def configure(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = f"{parser.description}\n\n{_USE}"
    parser.add_argument(
        "-s",
        "--socket",
        default=_DEFAULT,
        metavar="ADDRESS",
        help="loopback IP:port, or unix://<path>, which other users cannot reach (default: %(default)s)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="answer one request: JSON on standard input and output, ocicrypt's cmd protocol",
    )
    parser.add_argument("--kbs", metavar="URL", help="register keys at this KBS (default: you upload them)")
    parser.add_argument(
        "-a",
        "--auth-private-key",
        metavar="FILE",
        help="the KBS administrator's Ed25519 key, PEM; needs --kbs",
    )
    parser.add_argument(
        "--auth-role", default="admin", metavar="NAME", help="role in the token (default: admin)"
    )
    parser.add_argument(
        "--auth-issuer", default="", metavar="NAME", help="issuer in the token (default: none)"
    )
    parser.add_argument("--auth-audience", default="", metavar="NAME", help="audience in it (default: none)")
    parser.add_argument("--kbs-cert", metavar="FILE", help="PEM certificates to trust besides the system's")
    parser.add_argument("--allow-http", action="store_true", help="send keys to http:// on another machine")
    parser.add_argument("--allow-sample-key", action="store_true", help="accept sample=true, a published key")
    parser.add_argument(
        "--hub-socket",
        default=CDH_SOCKET,
        metavar="ADDRESS",
        help="with --once: the running agent that decrypts (default: %(default)s)",
    )


def run(arguments: Namespace) -> int:
    """Serve until a signal, or answer once."""
    if arguments.auth_private_key and not arguments.kbs:
        raise AgentError(ErrorCode.INVALID_REQUEST, "--auth-private-key needs --kbs")
    from agent.hardening import harden  # noqa: PLC0415  # keeps --help light

    harden()
    try:
        return asyncio.run(_once(arguments) if arguments.once else _serve(arguments))
    except AgentError as error:
        if error.code is not ErrorCode.CONFIG_INVALID:
            raise
        # What is a configuration elsewhere are arguments here; no agent's file needs a check.
        raise AgentError(ErrorCode.INVALID_REQUEST, error.detail) from error


# --- one request -----------------------------------------------------------------------------------
async def _once(arguments: Namespace) -> int:
    from agent.hub.image_wrap import operation  # noqa: PLC0415

    protocol_input = connect.read_input("-", limits.KEY_PROVIDER_MAX)
    if operation(protocol_input) == "keyunwrap":
        output = await _unwrap(arguments.hub_socket, protocol_input)
    else:
        async with _owner(arguments, lasting=False) as owner:
            output, parameters = await owner.wrap_key(protocol_input, _soon())
        _report(arguments, parameters)
    connect.write_output(output, None)
    return text.EXIT_OK


async def _unwrap(socket: str, protocol_input: bytes) -> bytes:
    """The same command decrypts inside a guest: the agent that runs there has the keys."""
    from agent.serve.ttrpc.remote import RemoteHub  # noqa: PLC0415

    hub = RemoteHub(socket)
    try:
        return (await hub.unwrap_key(protocol_input, _soon())).reveal()
    finally:
        await hub.close()


# --- a server --------------------------------------------------------------------------------------
async def _serve(arguments: Namespace) -> int:
    from agent.serve.grpc.server import GrpcServer  # noqa: PLC0415
    from agent.serve.grpc.services import owner_services  # noqa: PLC0415

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with _owner(arguments, lasting=True) as owner:
        server = GrpcServer(owner_services(_handler(arguments, owner)))
        address = await server.start(arguments.socket)
        try:
            print(f"key provider: {address}", flush=True)
            if not address.startswith(urls.UNIX):
                print(
                    "every user of this machine can reach it; unix://<path> is yours alone", file=sys.stderr
                )
            await stopped.wait()
        finally:
            await server.stop()
    return text.EXIT_OK


def _handler(arguments: Namespace, owner: ImageOwner) -> WrapKey:
    from agent.serve.ttrpc.codec import StatusError  # noqa: PLC0415

    async def wrap_key(protocol_input: bytes, deadline: Deadline) -> bytes:
        try:
            output, parameters = await owner.wrap_key(protocol_input, deadline)
        except AgentError as error:
            text.fail(error)
            # Whoever asks is the owner, who should see the cause where the image tool prints it.
            told = f"WrapKey failed: {error.code.name}: {error.message} {error.detail}".rstrip()
            raise StatusError(error.code.meaning.rpc, told) from None
        _report(arguments, parameters)
        return output

    return wrap_key


def _report(arguments: Namespace, parameters: Parameters) -> None:
    registered = "not registered" if parameters.sample or not arguments.kbs else "registered"
    how = f"{parameters.wrap_type.value}, {registered}"
    print(f"wrapped a layer key with {parameters.kid} ({how})", file=sys.stderr)


@asynccontextmanager
async def _owner(arguments: Namespace, *, lasting: bool) -> AsyncIterator[ImageOwner]:
    from agent.hub.image_owner import ImageOwner  # noqa: PLC0415

    writer = _writer(arguments) if arguments.kbs else None
    owner = ImageOwner(writer, _read_key, allow_sample=arguments.allow_sample_key, lasting=lasting)
    try:
        yield owner
    finally:
        owner.close()
        if writer is not None:
            await writer.close()


def _writer(arguments: Namespace) -> ResourceWriter:
    from agent.clock import SystemClock  # noqa: PLC0415
    from agent.config.model import Kbs  # noqa: PLC0415
    from agent.kbs.admin import Claims, ResourceWriter, read_key  # noqa: PLC0415

    problem = urls.problem(arguments.kbs)
    if problem:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"--kbs {problem}")
    key, roots = None, b""
    if arguments.auth_private_key:
        key = read_key(connect.read_input(arguments.auth_private_key, _PEM_MAX))
    if arguments.kbs_cert:
        roots = connect.read_input(arguments.kbs_cert, limits.CONFIG_MAX_FILE)
    settings = Kbs(
        url=arguments.kbs.rstrip("/"),
        extra_roots=roots.decode("ascii", "replace"),
        # T-IMGKEY-38: keys and an administrator's token do not cross a network in clear by accident.
        require_tls=not (arguments.allow_http or urls.is_loopback(arguments.kbs)),
    )
    claims = Claims(arguments.auth_role, arguments.auth_issuer, arguments.auth_audience)
    return ResourceWriter(settings, key, claims, SystemClock())


def _read_key(path: str) -> Secret:
    # T-IMGKEY-39: the path comes with the request. What is no key is not read whole, and never waited for.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Secret(file.read(_KEY_MAX))
    except (OSError, ValueError):
        pass
    raise AgentError(ErrorCode.INVALID_REQUEST, "the key file of keypath= cannot be read")


def _soon() -> Deadline:
    from agent.clock import Deadline, SystemClock  # noqa: PLC0415

    return Deadline.after(SystemClock(), limits.RPC_DEADLINE)
