"""``coco-agent seal``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli import connect, text
from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def configure(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    keygen = actions.add_parser(
        "keygen",
        help="make a P-256 key pair for signing sealed secrets",
        description="Write NAME-private.json (mode 0600) and NAME-public.json. The public one goes to the "
        "key broker, at the URI that the key id names.",
        epilog="example:\n  coco-agent seal keygen --kid kbs:///default/signing-key/sealed-secret",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    keygen.add_argument("--kid", default="sealed-signing", help="key id: a kbs:/// URI or a file name")
    keygen.add_argument("--name", default="sealed-signing", help="start of the file names")
    keygen.add_argument("--output-dir", default=".", metavar="DIR", help="where to write (default: here)")
    vault = actions.add_parser(
        "vault",
        help="make a sealed secret that points at a resource",
        description="Print a sealed secret whose plaintext is a resource of the key broker. The resource "
        "itself is not read here; upload it to the broker separately.",
        epilog="example:\n  coco-agent seal vault kbs:///default/db/password --key signing-private.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    vault.add_argument("uri", metavar="URI", help="the resource to point at")
    vault.add_argument("--key", required=True, metavar="FILE", help="private JWK made by 'seal keygen'")
    vault.add_argument("--kid", help="key id to name (default: the one in the key file)")


def run(arguments: Namespace) -> int:
    """Make keys, or a sealed secret."""
    return _keygen(arguments) if arguments.action == "keygen" else _vault(arguments)


def _keygen(arguments: Namespace) -> int:
    from agent.hub.sealing import keygen  # noqa: PLC0415  # keeps --help light

    folder = Path(arguments.output_dir)
    private, public = (folder / f"{arguments.name}-{kind}.json" for kind in ("private", "public"))
    for path in (private, public):
        if path.exists():
            raise AgentError(ErrorCode.INVALID_REQUEST, f"{path} exists; nothing was written")
    private_jwk, public_jwk = keygen(arguments.kid)
    connect.write_output(private_jwk.reveal(), str(private))
    connect.write_output(public_jwk, str(public))
    print(f"{private}\n{public}")
    return text.EXIT_OK


def _vault(arguments: Namespace) -> int:
    from agent.hub.sealing import key_id, seal_vault  # noqa: PLC0415  # keeps --help light

    jwk = connect.read_input(arguments.key, limits.JWK_MAX)
    print(seal_vault(arguments.uri, arguments.kid or key_id(jwk), jwk))
    print("note: the secret itself must be uploaded to the key broker separately", file=sys.stderr)
    return text.EXIT_OK
