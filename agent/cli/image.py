"""``coco-agent image``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cli import connect, image_text, text
from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator

    from agent.clock import Deadline
    from agent.hub.image import images, wrapping
    from agent.hub.image.documents import Descriptor
    from agent.hub.image.jwe import PrivateKey
    from agent.hub.image.layer import Watch
    from agent.hub.image.layout import Layout, NewLayout
    from agent.secret import Secret
    from agent.serve.ttrpc.remote import RemoteHub

KEY_SIZE: Final = 32
_JOBS_MAX: Final = 16
_LAYOUT_HELP: Final = "folder with an OCI image layout, with :TAG, @sha256:DIGEST, both or none of them"
_RANGE: Final = re.compile(r"(-?\d{1,4})(?:\.\.(-?\d{1,4}))?")


def configure(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_encrypt(
        _action(
            actions,
            "encrypt",
            "encrypt layers of an image",
            "Write SRC to the new folder DST with encrypted layers. Upload the key file to the key broker, "
            "at the URI that --kid names.",
            "coco-agent image encrypt app:latest app-encrypted --random kek --kid kbs:///default/image-kek/1",
        )
    )
    _configure_decrypt(
        _action(
            actions,
            "decrypt",
            "decrypt all encrypted layers of an image",
            "Write SRC to the new folder DST with decrypted layers. The running agent is asked for the keys, "
            "unless --key or a --jwe-key file is given. DST appears when every HMAC and digest is right.",
            "coco-agent image decrypt app-encrypted:latest app",
        )
    )
    inspect = _action(
        actions,
        "inspect",
        "list layers, and who can unwrap their keys",
        "List manifests and layers without any key.",
        "coco-agent image inspect app-encrypted",
    )
    inspect.add_argument("layout", metavar="LAYOUT", help=_LAYOUT_HELP)
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.add_argument("--platform", default="", help="only this OS/ARCHITECTURE[/VARIANT]")


def _action(
    actions: argparse._SubParsersAction[ArgumentParser], name: str, short: str, what: str, example: str
) -> ArgumentParser:
    return actions.add_parser(
        name,
        help=short,
        description=what,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _configure_encrypt(parser: ArgumentParser) -> None:
    _add_common(parser)
    key = parser.add_mutually_exclusive_group()
    key.add_argument("--key", metavar="FILE", help="key encryption key: 32 raw bytes")
    key.add_argument("--random", metavar="FILE", help="make that key, and write it to a new file, mode 0600")
    parser.add_argument(
        "--kid", metavar="URI", help="where guests find the key, such as kbs:///default/key/1"
    )
    parser.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="jwe:FILE",
        help="also for the holder of the private key to this public one (PEM: RSA or EC); may be repeated",
    )
    parser.add_argument(
        "--layers",
        metavar="LIST",
        help="which ones, from 0 or from the end with -1, such as 0,2..4,-1 (default: all that can be)",
    )


def _configure_decrypt(parser: ArgumentParser) -> None:
    _add_common(parser)
    parser.add_argument("--key", metavar="FILE", help="key encryption key: 32 raw bytes; asks no agent")
    parser.add_argument(
        "--jwe-key",
        metavar="FILE|URI",
        help="private key for JWE: a file (PEM or DER), or a kbs:/// URI that the running agent fetches",
    )
    connect.add_hub_options(parser)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help=_LAYOUT_HELP)
    parser.add_argument("target", metavar="DST", help="folder to make; it must not exist")
    parser.add_argument("--platform", default="", help="only this OS/ARCHITECTURE[/VARIANT] of an index")
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="layers at a time (default: one each core, 4 at most)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no summary")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(arguments: Namespace) -> int:
    """Encrypt, decrypt or inspect."""
    # A command that is ended removes what it has begun.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.action == "inspect":
            return _inspect(arguments)
        return _encrypt(arguments) if arguments.action == "encrypt" else _decrypt(arguments)
    except OSError as error:
        raise AgentError(
            ErrorCode.INVALID_REQUEST, f"{error.filename or 'reading or writing a layer'}: {error.strerror}"
        ) from error


def _open(name: str, platform: str) -> tuple[Layout, images.Selection]:
    """Split ``folder[:tag][@digest]``; the longest folder that exists is meant."""
    from agent.hub.image.images import Selection  # noqa: PLC0415  # keeps --help light
    from agent.hub.image.layout import Layout  # noqa: PLC0415

    path, at, digest = name.rpartition("@")
    if not at or Path(name).is_dir():
        path, digest = name, ""
    ends = [len(path), *(n for n in range(len(path) - 1, 0, -1) if path[n] == ":")]
    end = next((n for n in ends if Path(path[:n]).is_dir()), len(path))
    return Layout(path[:end]), Selection(path[end + 1 :], digest, platform)


def _encrypt(arguments: Namespace) -> int:
    from agent.config.uri import parse_uri  # noqa: PLC0415
    from agent.hub.image import images, jwe  # noqa: PLC0415
    from agent.hub.image.wrapping import Wrapper  # noqa: PLC0415

    recipients = [jwe.read_public_key(_recipient(name)) for name in arguments.recipient]
    has_key = bool(arguments.key or arguments.random)
    if has_key != bool(arguments.kid):
        raise AgentError(ErrorCode.INVALID_REQUEST, "--kid goes with --key or --random")
    if not has_key and not recipients:
        raise AgentError(ErrorCode.INVALID_REQUEST, "name a key (--key, --random) or a --recipient")
    kid = str(parse_uri(arguments.kid)) if has_key else ""
    layout, selection = _open(arguments.source, arguments.platform)
    with layout:
        found = images.load(layout, selection)
        chosen = _chosen(found, arguments.layers)
        wrapper = Wrapper(_kek(arguments), kid, recipients)
        with _key_goes_with(arguments.target, arguments.random):
            changes = _work(
                arguments,
                found,
                lambda target, watch: images.encrypt(
                    found, target, wrapper.annotations, chosen, watch, jobs=arguments.jobs
                ),
            )
    return image_text.summary(arguments, found, chosen, changes)


@contextlib.contextmanager
def _key_goes_with(target: str, made: str | None) -> Iterator[None]:
    """Remove the key file ``made`` on failure: nothing is encrypted with it, and it stops the next try."""
    there = os.path.lexists(target)
    try:
        yield
    except BaseException:
        # If the layout did appear, its key stays whatever went wrong afterwards.
        if made and (there or not os.path.lexists(target)):
            Path(made).unlink(missing_ok=True)
        raise


def _recipient(name: str) -> bytes:
    scheme, _, path = name.partition(":")
    if scheme != "jwe" or not path:
        raise AgentError(ErrorCode.INVALID_REQUEST, "--recipient is jwe:FILE")
    return connect.read_input(path, limits.JWK_MAX)


def _kek(arguments: Namespace) -> Secret | None:
    """The key encryption key; a random one is on disk before anything is encrypted with it."""
    from agent.secret import Secret  # noqa: PLC0415

    if getattr(arguments, "random", None):
        made = Secret(os.urandom(KEY_SIZE))
        connect.write_output(made.reveal(), arguments.random)
        return made
    if not arguments.key:
        return None
    kek = Secret(connect.read_input(arguments.key, limits.JWK_MAX))
    if len(kek) != KEY_SIZE:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"{arguments.key} does not have {KEY_SIZE} raw bytes")
    return kek


def _chosen(found: images.Images, layers: str | None) -> list[images.Layer]:
    """The layers to encrypt, each once."""
    chosen: dict[Descriptor, images.Layer] = {}
    for node in found.manifests():
        wanted = _numbers(layers, len(node.layers))
        for one in node.layers:
            if one.number in wanted and (one.encryptable or layers is not None):
                chosen.setdefault(one.descriptor, one)
    for one in chosen.values():
        if not one.encryptable:
            shown = ascii(one.descriptor.media_type[:100])
            raise AgentError(ErrorCode.INVALID_REQUEST, f"{one.name}: {shown} has no encrypted form")
    if not chosen:
        detail = "there is no layer to encrypt: all are encrypted already, or none is an OCI layer"
        raise AgentError(ErrorCode.INVALID_REQUEST, detail)
    return list(chosen.values())


def _numbers(layers: str | None, count: int) -> set[int]:
    if layers is None:
        return set(range(count))
    wanted: set[int] = set()
    for part in layers.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise AgentError(ErrorCode.INVALID_REQUEST, "--layers is a list such as 0,2..4,-1")
        first, last = (int(end) for end in (match[1], match[2] or match[1]))
        first, last = (end + count if end < 0 else end for end in (first, last))
        if not 0 <= first <= last < count:
            raise AgentError(ErrorCode.INVALID_REQUEST, f"--layers: {part} of {count} layers")
        wanted |= set(range(first, last + 1))
    return wanted


def _decrypt(arguments: Namespace) -> int:
    from agent.hub.image import images  # noqa: PLC0415

    layout, selection = _open(arguments.source, arguments.platform)
    with layout:
        found = images.load(layout, selection)
        chosen = [one for one in found.layers() if one.encrypted]
        for one in chosen:
            images.public_options(one)  # before anybody is asked for a key
        keys = _keys(arguments, chosen) if chosen else {}
        try:
            changes = _work(
                arguments,
                found,
                lambda target, watch: images.decrypt(found, target, keys, watch, jobs=arguments.jobs),
            )
        finally:
            for private_options in keys.values():
                private_options.wipe()
    return image_text.summary(arguments, found, chosen, changes)


def _keys(arguments: Namespace, layers: list[images.Layer]) -> dict[images.Layer, Secret]:
    """Unwrap every layer's key, before anything is written."""
    from agent.hub.image import jwe, wrapping  # noqa: PLC0415

    private_key: PrivateKey | None = None
    remote_key = arguments.jwe_key if (arguments.jwe_key or "").startswith("kbs:") else None
    if arguments.jwe_key and remote_key is None:
        private_key = jwe.read_private_key(connect.read_input(arguments.jwe_key, limits.JWK_MAX))
    if arguments.key or private_key is not None:
        kek = _kek(arguments)
        ask = None if kek is None else wrapping.offline(kek)
        return asyncio.run(_unwrap(wrapping.Unwrapper(ask, private_key), layers))

    async def through_agent(hub: RemoteHub, deadline: Deadline) -> dict[images.Layer, Secret]:
        async def unwrap_key(protocol_input: bytes) -> Secret:
            return await hub.unwrap_key(protocol_input, deadline)

        if remote_key is None:
            return await _unwrap(wrapping.Unwrapper(wrapping.remote(unwrap_key), None), layers)
        fetched = await hub.get_resource(remote_key, deadline)
        return await _unwrap(wrapping.Unwrapper(None, jwe.read_private_key(fetched.secret.reveal())), layers)

    return connect.ask_hub(arguments.socket, arguments.timeout, through_agent)


async def _unwrap(unwrapper: wrapping.Unwrapper, layers: list[images.Layer]) -> dict[images.Layer, Secret]:
    from agent.hub.image.wrapping import wrappings  # noqa: PLC0415

    keys = {}
    for one in layers:
        try:
            keys[one] = await unwrapper.private_options(wrappings(one.descriptor.annotations))
        except AgentError as error:
            raise AgentError(error.code, f"{one.name}: {error.detail}") from error
    return keys


def _work(
    arguments: Namespace,
    found: images.Images,
    act: Callable[[NewLayout, Watch], dict[Descriptor, Descriptor]],
) -> dict[Descriptor, Descriptor]:
    from agent.cli.progress import Progress  # noqa: PLC0415
    from agent.hub.image.images import work  # noqa: PLC0415
    from agent.hub.image.layer import Watch  # noqa: PLC0415
    from agent.hub.image.layout import NewLayout  # noqa: PLC0415

    if not 0 <= arguments.jobs <= _JOBS_MAX:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"--jobs is 1 to {_JOBS_MAX}")
    quiet = arguments.quiet or arguments.json
    with NewLayout(arguments.target) as target, Progress(arguments.action, work(found), quiet=quiet) as bar:
        return act(target, Watch(bar.advance))


def _inspect(arguments: Namespace) -> int:
    from agent.hub.image import images  # noqa: PLC0415
    from agent.hub.image.documents import REF_NAME  # noqa: PLC0415

    layout, selection = _open(arguments.layout, arguments.platform)
    with layout:
        found = images.load(layout, selection)
    shown = [
        {
            "tag": top.descriptor.annotation(REF_NAME),
            "platform": node.descriptor.platform or None,
            "digest": node.descriptor.digest,
            "layers": [image_text.described(one) for one in node.layers],
        }
        for top in found.nodes
        for node in top.walk()
        if node.layers
    ]
    if arguments.json:
        text.print_json({"manifests": shown})
        return text.EXIT_OK
    for top in found.nodes:
        for node in top.walk():
            if node.layers:
                image_text.print_manifest(top.descriptor.annotation(REF_NAME), node)
    return text.EXIT_OK
