"""``coco-agent config``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from agent.cli import text
from agent.cli.sources import add_config_options, agent_part, load_config

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from agent.config.assemble import InitDataFile


def configure(parser: ArgumentParser) -> None:
    """Add the sub-commands."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="find mistakes in configuration files, before a pod finds them",
        description="Check aa.toml, cdh.toml, agent.toml or init-data files; needs no agent. "
        "Exit status 1 if there are errors. Unknown keys of upstream's files are warnings, as upstream.",
        epilog="example:\n  coco-agent config check aa.toml cdh.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("files", nargs="+", metavar="FILE", help="file to check")
    check.add_argument("--strict", action="store_true", help="exit status 1 for warnings, too")
    check.add_argument("--json", action="store_true", help="print JSON")
    show = actions.add_parser(
        "show",
        help="print the effective configuration and where each value came from",
        description="Read the same places as serve and print what would be used; nothing secret is printed.",
        epilog="example:\n  coco-agent config show --aa-config aa.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_options(show)
    show.add_argument(
        "--initdata-toml", metavar="FILE", help="init-data, shown as if the hardware vouched for it"
    )
    show.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: Namespace) -> int:
    """Check or show."""
    return _check(arguments) if arguments.action == "check" else _show(arguments)


def _check(arguments: Namespace) -> int:
    from agent.config.check import check  # noqa: PLC0415  # keeps --help light

    findings = check(arguments.files)
    errors = [finding for finding in findings if finding.severity == "error"]
    if arguments.json:
        text.print_json(
            [
                {
                    "severity": f.severity,
                    "file": f.file,
                    "key": f.key,
                    "message": f.message,
                    "next": f.next_step,
                }
                for f in findings
            ]
        )
    else:
        for finding in findings:
            where = f"{finding.file}: {finding.key}" if finding.key else finding.file
            print(f"{finding.severity}: {where}: {finding.message}")
            if finding.next_step:
                print(f"  next: {finding.next_step}")
        print(f"{len(arguments.files)} checked, {len(errors)} errors, {len(findings) - len(errors)} warnings")
    failed = findings if arguments.strict else errors
    return text.EXIT_FAILED if failed else text.EXIT_OK


def _init_data(path: str | None) -> InitDataFile | None:
    if path is None:
        return None
    from agent.tee.binding import read_document  # noqa: PLC0415  # keeps --help light

    return agent_part(read_document(path), path)


def _show(arguments: Namespace) -> int:
    from agent.config.show import rows  # noqa: PLC0415  # keeps --help light

    config = load_config(arguments, init_data=_init_data(arguments.initdata_toml))
    shown = rows(config)
    if arguments.json:
        text.print_json(
            {
                "values": [{"name": r.name, "value": r.value, "origin": r.origin} for r in shown],
                "warnings": list(config.warnings),
            }
        )
        return text.EXIT_OK
    print(text.table([(r.name, r.value, r.origin) for r in shown], ("NAME", "VALUE", "FROM")))
    for warning in config.warnings:
        print(f"warning: {warning}")
    return text.EXIT_OK
