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
    from collections.abc import Mapping, Sequence

    from agent.config.findings import Finding
    from agent.tee.initdata import InitData
    from agent.tee.initdata_transport import Unpacked


def configure(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = _action(
        actions,
        "build",
        "make the value of the pod annotation",
        "Put files into an init-data document and print what the annotation "
        "io.katacontainers.config.hypervisor.cc_init_data takes. Equal files give equal text. The files are "
        "checked as inspect does; with errors nothing is built.",
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
    build.add_argument("--force", action="store_true", help="build it in spite of errors")
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

    files = _files(arguments.files)
    _refuse(files, force=arguments.force)
    document = build(files, Algorithm(arguments.algorithm))
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


def _files(items: Sequence[str]) -> dict[str, str]:
    files: dict[str, str] = {}
    for name, content in map(_file, items):
        if name in files:
            # A document has one file of a name, so the other one would be lost.
            raise AgentError(ErrorCode.INVALID_REQUEST, f"there are two files of the name {name}")
        files[name] = content
    return files


def _refuse(files: Mapping[str, str], *, force: bool) -> None:
    """Stop before rubbish is measured."""
    findings = _findings(files)
    # What is said of "data.…" of no file is that nothing in the guest reads it.
    unread = [one for one in findings if not one.file and one.key.startswith("data.")]
    wrong = [one.sentence() for one in findings if one.severity == "error" or one in unread]
    if wrong and not force:
        raise AgentError(ErrorCode.CONFIG_INVALID, f"{'; '.join(wrong)}; --force builds it all the same")
    for finding in findings:
        print(f"{finding.severity}: {finding.sentence()}", file=sys.stderr)


def _findings(files: Mapping[str, str]) -> list[Finding]:
    from agent.config.check import check_parts  # noqa: PLC0415  # keeps --help light

    return check_parts(files)


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
    findings = _findings(document.data)
    data = document.data
    files = [(name, len(held.encode()), *_judge(name, held, findings)) for name, held in data.items()]
    notes = _notes(document, findings)
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
    return text.EXIT_FAILED if any(finding.severity == "error" for finding in findings) else text.EXIT_OK


def _judge(name: str, content: str, findings: Sequence[Finding]) -> tuple[bool, str]:
    from agent.config.check import PARTS  # noqa: PLC0415  # keeps --help light
    from agent.config.findings import shown  # noqa: PLC0415

    own = {(name, finding.key) for finding in findings} | {("", f"data.{shown(name)}")}
    errors = [finding for finding in findings if finding.severity == "error"]
    wrong = [finding.sentence() for finding in errors if (finding.file, finding.key) in own]
    if wrong:
        return False, f"INVALID: {'; '.join(wrong)}"
    if name not in PARTS:
        return True, "measured, but read by nobody"
    if PARTS[name] is None:
        return True, "policy, applied by kata-agent"
    url = _broker(name, content)
    return True, f"good; key broker {url}" if url else "good; names no key broker"


def _broker(name: str, content: str) -> str:
    from agent.config.assemble import InitDataFile, Inputs, collect  # noqa: PLC0415  # keeps --help light
    from agent.config.document import parse  # noqa: PLC0415

    document = parse(name, content.encode())
    # The guest's environment and kernel command line are not here to be asked.
    if name == "aa.toml":
        return collect(Inputs(aa=document, roles=frozenset()))[0].build().attester.kbs.url
    if name == "cdh.toml":
        return collect(Inputs(cdh=document, roles=frozenset()))[0].build().hub.kbs.url
    inputs = Inputs(init_data=InitDataFile(document, bound=True), roles=frozenset())
    return collect(inputs)[0].build().hub.kbs.url


def _notes(document: InitData, findings: Sequence[Finding]) -> list[str]:
    notes = [finding.sentence() for finding in findings if finding.severity == "warning" and finding.file]
    if len(document.digest) != 32:
        notes.append("a vTPM (Azure, tpm) takes sha256 only; SNP compares the first 32 bytes of the digest")
    if not {"aa.toml", "cdh.toml", "agent.toml"} & document.data.keys():
        notes.append("no aa.toml and no cdh.toml: the key broker comes from the kernel command line")
    return notes
