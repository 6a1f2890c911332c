"""``coco-agent seal``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agent.cli import connect, text
from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    import msgspec

    from agent.config.model import Kms
    from agent.hub.kms.base import Getter

_KBS = "kbs"


def configure(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_keygen(
        actions.add_parser(
            "keygen",
            help="make a key pair for signing sealed secrets",
            description="Write NAME-private.json (mode 0600) and NAME-public.json. The public one goes to "
            "the key broker, at the URI that the key id names.",
            epilog="example:\n  coco-agent seal keygen --kid kbs:///default/signing-key/sealed-secret",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _configure_vault(
        actions.add_parser(
            "vault",
            help="make a sealed secret that points at a resource",
            description="Print a sealed secret whose plaintext is a resource of the key broker, or a secret "
            "of another provider. The plaintext itself is not read here; upload it separately.",
            epilog="example:\n  coco-agent seal vault kbs:///default/db/password --key signing-private.json",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _configure_envelope(
        actions.add_parser(
            "envelope",
            help="make a sealed secret that carries its encrypted plaintext",
            description="Encrypt a file under a fresh key, let a key management service encrypt that key, "
            "and print both as a sealed secret.",
            epilog="example:\n  coco-agent seal envelope password.txt --provider aws --key-id alias/coco \\\n"
            '    --settings \'{"region":"eu-central-1"}\' --credentials ./kms --key signing-private.json',
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def _configure_keygen(parser: ArgumentParser) -> None:
    parser.add_argument("--kid", default="sealed-signing", help="key id: a kbs:/// URI or a file name")
    parser.add_argument("--name", default="sealed-signing", help="start of the file names")
    parser.add_argument("--output-dir", default=".", metavar="DIR", help="where to write (default: here)")
    parser.add_argument(
        "--alg",
        default="ES256",
        choices=("ES256", "ES384", "EdDSA"),
        help="signature algorithm; upstream's hub knows ES256 only (default: %(default)s)",
    )


def _configure_vault(parser: ArgumentParser) -> None:
    parser.add_argument("uri", metavar="URI", help="the resource to point at, or another provider's name")
    parser.add_argument("--provider", default=_KBS, help="who has it (default: %(default)s)")
    parser.add_argument("--annotations", metavar="JSON", default="{}", help="object for the provider")
    _add_signing(parser)


def _configure_envelope(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the plaintext, or - for standard input")
    parser.add_argument("--provider", required=True, help="key management service, see docs/backends.md")
    parser.add_argument("--key-id", required=True, metavar="ID", help="key of the service")
    parser.add_argument(
        "--credentials", required=True, metavar="DIR", help="folder with a folder of credentials per provider"
    )
    parser.add_argument(
        "--endpoint", action="append", default=[], metavar="URL", help="where credentials may be sent"
    )
    parser.add_argument("--cert", metavar="FILE", help="PEM certificates trusted for --endpoint")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="SECONDS", help="(default: %(default)s)"
    )
    _add_signing(parser)


def _add_signing(parser: ArgumentParser) -> None:
    parser.add_argument("--settings", metavar="JSON", default="{}", help="provider_settings, an object")
    parser.add_argument("--key", required=True, metavar="FILE", help="private JWK made by 'seal keygen'")
    parser.add_argument("--kid", help="key id to name (default: the one in the key file)")


def run(arguments: Namespace) -> int:
    """Make keys, or a sealed secret."""
    return {"keygen": _keygen, "vault": _vault, "envelope": _envelope}[arguments.action](arguments)


def _keygen(arguments: Namespace) -> int:
    from agent.hub.sealing import keygen  # noqa: PLC0415  # keeps --help light

    folder = Path(arguments.output_dir)
    private, public = (folder / f"{arguments.name}-{kind}.json" for kind in ("private", "public"))
    for path in (private, public):
        if path.exists():
            raise AgentError(ErrorCode.INVALID_REQUEST, f"{path} exists; nothing was written")
    private_jwk, public_jwk = keygen(arguments.kid, arguments.alg)
    connect.write_output(private_jwk.reveal(), str(private))
    connect.write_output(public_jwk, str(public))
    print(f"{private}\n{public}")
    return text.EXIT_OK


def _vault(arguments: Namespace) -> int:
    from agent.hub.sealing import Provider, key_id, seal_vault  # noqa: PLC0415  # keeps --help light

    jwk = connect.read_input(arguments.key, limits.JWK_MAX)
    provider = Provider(
        arguments.provider.lower(),
        _object(arguments.settings, "--settings"),
        _object(arguments.annotations, "--annotations"),
    )
    print(seal_vault(arguments.uri, arguments.kid or key_id(jwk), jwk, provider))
    where = "to the key broker separately" if provider.name == _KBS else "to the provider separately"
    print(f"note: the secret itself must be uploaded {where}", file=sys.stderr)
    return text.EXIT_OK


def _envelope(arguments: Namespace) -> int:
    from agent.hub.sealing import key_id  # noqa: PLC0415  # keeps --help light

    if arguments.provider.lower() == _KBS:
        raise AgentError(
            ErrorCode.INVALID_REQUEST, "provider kbs keeps secrets and encrypts nothing: use 'seal vault'"
        )
    jwk = connect.read_input(arguments.key, limits.JWK_MAX)
    kid = arguments.kid or key_id(jwk)
    sealed = asyncio.run(_seal_envelope(arguments, _kms(arguments), kid, jwk))
    # A guest refuses longer ones.
    if len(sealed) > limits.SEALED_MAX:
        detail = f"the sealed secret has {len(sealed)} bytes; guests take {limits.SEALED_MAX}"
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, detail)
    print(sealed)
    return text.EXIT_OK


def _kms(arguments: Namespace) -> Kms:
    from agent.config import kinds, kms_kinds  # noqa: PLC0415  # keeps --help light
    from agent.config.model import Kms  # noqa: PLC0415

    roots = connect.read_input(arguments.cert, limits.CONFIG_MAX_FILE) if arguments.cert else b""
    try:
        return Kms(
            credentials_dir=str(Path(arguments.credentials).resolve()),
            endpoints=cast("tuple[str, ...]", kms_kinds.ENDPOINTS.read(arguments.endpoint)),
            extra_roots=kinds.read_pem(roots.decode("utf-8", "replace")),
        )
    except kinds.Refused as refused:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"--endpoint or --cert {refused}") from None


async def _seal_envelope(arguments: Namespace, kms: Kms, kid: str, jwk: bytes) -> str:
    from agent.clock import Deadline, SystemClock  # noqa: PLC0415  # keeps --help light
    from agent.hub.kms.registry import Backends  # noqa: PLC0415
    from agent.hub.resources import Resources  # noqa: PLC0415
    from agent.hub.sealing import Provider, seal_envelope  # noqa: PLC0415
    from agent.observe.metrics import Metrics  # noqa: PLC0415
    from agent.secret import Secret  # noqa: PLC0415

    clock = SystemClock()
    backends = Backends(kms, Resources(_no_broker, Metrics()), clock)
    settings = _object(arguments.settings, "--settings")
    plaintext = Secret(connect.read_input(arguments.file, limits.SEALED_MAX))
    try:
        provider = Provider(arguments.provider.lower(), settings)
        return await seal_envelope(
            plaintext,
            (arguments.key_id, backends.encrypter(provider.name, settings)),
            kid,
            jwk,
            provider=provider,
            deadline=Deadline.after(clock, arguments.timeout),
        )
    finally:
        plaintext.wipe()
        await backends.close()


def _no_broker() -> Getter:
    raise AgentError(ErrorCode.KBS_NOT_CONFIGURED, "sealing asks no key broker")


def _object(content: str, option: str) -> dict[str, msgspec.Raw]:
    import msgspec  # noqa: PLC0415  # keeps --help light

    from agent.hub.encoding import read_json  # noqa: PLC0415

    return read_json(content.encode(), dict[str, msgspec.Raw], ErrorCode.INVALID_REQUEST, option)
