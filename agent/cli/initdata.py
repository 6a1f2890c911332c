"""``coco-agent initdata``."""

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

    from agent.tee.initdata import InitData
    from agent.tee.initdata_transport import Unpacked

EXTRACTED = ("aa.toml", "cdh.toml")
"""What kata-agent writes out for the agents; policy.rego it applies itself (kata_integration.md 3.2)."""


def configure(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = _action(
        actions,
        "build",
        "make the value of the pod annotation",
        "Put files into an init-data document and print what the annotation "
        "io.katacontainers.config.hypervisor.cc_init_data takes. Equal files give equal text.",
        "coco-agent initdata build aa.toml cdh.toml policy.rego",
    )
    build.add_argument(
        "files", nargs="+", metavar="FILE", help="file to put in, under its own name; or NAME=FILE"
    )
    build.add_argument(
        "--algorithm",
        default="sha256",
        choices=("sha256", "sha384", "sha512"),
        help="of the digest; a vTPM (Azure, tpm) takes sha256 only (default: sha256)",
    )
    build.add_argument("--toml", action="store_true", help="print the document itself, not the annotation")
    digest = _action(
        actions,
        "digest",
        "print the digest, and what the hardware's registers must hold",
        "Digest over the document's exact bytes, for reference values and for --initdata-digest.",
        "coco-agent initdata digest initdata.toml",
    )
    inspect = _action(
        actions,
        "inspect",
        "explain a document, an annotation's value or a disk image",
        "Show what is inside, whether the agent understands it, and what to look out for.",
        "kubectl get pod mine -o jsonpath="
        "'{.metadata.annotations.io\\.katacontainers\\.config\\.hypervisor\\.cc_init_data}' \\\n"
        "    | coco-agent initdata inspect -",
    )
    for child in (digest, inspect):
        child.add_argument("file", metavar="FILE", help="TOML, gzip, annotation value or disk image; - reads")
    for child in (build, digest, inspect):
        child.add_argument("--json", action="store_true", help="print JSON")


def _action(
    actions: argparse._SubParsersAction[ArgumentParser], name: str, summary: str, about: str, example: str
) -> ArgumentParser:
    return actions.add_parser(
        name,
        help=summary,
        description=about,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(arguments: Namespace) -> int:
    """Build, or read and explain."""
    if arguments.action == "build":
        return _build(arguments)
    from agent.tee.initdata import parse  # noqa: PLC0415  # keeps --help light
    from agent.tee.initdata_transport import unpack  # noqa: PLC0415

    unpacked = unpack(connect.read_input(arguments.file, limits.CONFIG_MAX_FILE))
    document = parse(unpacked.document)
    if arguments.action == "digest":
        return _digest(document, as_json=arguments.json)
    return _inspect(unpacked, document, as_json=arguments.json)


def _build(arguments: Namespace) -> int:
    from agent.tee.initdata import Algorithm, parse  # noqa: PLC0415
    from agent.tee.initdata_transport import ANNOTATION, annotation, build  # noqa: PLC0415

    document = build(dict(_file(item) for item in arguments.files), Algorithm(arguments.algorithm))
    if arguments.json:
        read = parse(document)
        text.print_json(
            {
                "annotation": ANNOTATION,
                "value": annotation(document),
                "document": read.text,
                "algorithm": read.algorithm.value,
                "digest": read.digest.hex(),
                "registers": _registers(read.digest),
            }
        )
    else:
        print(document.decode().removesuffix("\n") if arguments.toml else annotation(document))
        print(f"digest {parse(document).digest.hex()}", file=sys.stderr)
    return text.EXIT_OK


def _file(item: str) -> tuple[str, str]:
    name, separator, path = item.partition("=")
    if not separator:
        name, path = Path(item).name, item
    try:
        return name, connect.read_input(path, limits.CONFIG_MAX_FILE).decode()
    except UnicodeDecodeError:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{path} is not UTF-8 text") from None


def _registers(digest: bytes) -> dict[str, str | None]:
    from agent.tee.initdata_transport import expected  # noqa: PLC0415

    values = expected(digest)
    return {
        "snp HOSTDATA": values.host_data.hex(),
        "tdx MRCONFIGID": values.mr_config_id.hex(),
        "vTPM PCR 8": values.pcr8.hex() if values.pcr8 else None,
    }


def _digest(document: InitData, *, as_json: bool) -> int:
    import base64  # noqa: PLC0415

    encoded = base64.b64encode(document.digest).decode("ascii")
    registers = _registers(document.digest)
    if as_json:
        text.print_json(
            {
                "algorithm": document.algorithm.value,
                "digest": document.digest.hex(),
                "base64": encoded,
                "registers": registers,
            }
        )
        return text.EXIT_OK
    rows = [(document.algorithm.value, document.digest.hex()), ("base64", encoded)]
    rows += [(name, value or "does not fit: use sha256") for name, value in registers.items()]
    print(text.table(rows, ("WHAT", "VALUE")))
    return text.EXIT_OK


def _inspect(unpacked: Unpacked, document: InitData, *, as_json: bool) -> int:
    files = [(name, len(content.encode()), *_judge(name, content)) for name, content in document.data.items()]
    notes = _notes(document)
    if as_json:
        text.print_json(
            {
                "form": unpacked.form,
                "version": document.version,
                "algorithm": document.algorithm.value,
                "digest": document.digest.hex(),
                "registers": _registers(document.digest),
                "files": [
                    {"name": name, "bytes": size, "good": good, "about": about}
                    for name, size, good, about in files
                ],
                "notes": notes,
            }
        )
    else:
        print(f"{unpacked.form}, init-data {document.version}, {len(document.text.encode())} bytes\n")
        rows = [(name, str(size), about) for name, size, _, about in files]
        print(text.table(rows, ("FILE", "BYTES", "WHAT")) + "\n")
        _digest(document, as_json=False)
        for note in notes:
            print(f"\nnote: {note}")
    return text.EXIT_OK if all(good for _, _, good, _ in files) else text.EXIT_FAILED


def _judge(name: str, content: str) -> tuple[bool, str]:
    if name not in EXTRACTED:
        about = "policy, applied by kata-agent" if name == "policy.rego" else "measured, but read by nobody"
        return True, about
    import tempfile  # noqa: PLC0415

    from agent.config.load import load  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_text(content)
        try:
            config = load(  # the guest's environment and kernel command line are not here to be asked
                aa=str(path) if name == "aa.toml" else None,
                cdh=str(path) if name == "cdh.toml" else None,
                agent=None,
                environ={},
                cmdline="",
                arguments={},
                roles=frozenset({"attester" if name == "aa.toml" else "hub"}),
            )
        except AgentError as error:
            return False, f"INVALID: {error.detail.replace(f'{path}', name)}"
    kbs = config.attester.kbs if name == "aa.toml" else config.hub.kbs
    return True, f"good; key broker {kbs.url}" if kbs.url else "good; names no key broker"


def _notes(document: InitData) -> list[str]:
    notes = []
    if len(document.digest) != 32:
        notes.append("a vTPM (Azure, tpm) takes sha256 only; SNP compares the first 32 bytes of the digest")
    if not any(name in document.data for name in EXTRACTED):
        notes.append("no aa.toml and no cdh.toml: the key broker comes from the kernel command line")
    return notes
