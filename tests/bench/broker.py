"""Helper: the development KBS. Arguments: the folder with ``held.json``; ``tls`` to serve TLS, with its root
in ``root.pem`` there."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

from agent.devkit.kbs import DevKbs, Fault, Kind
from agent.devkit.pki import Authority
from tests.bench import material
from tests.bench.children import obey, say


async def main() -> None:
    logging.disable(logging.WARNING)  # its own warning that it protects nothing
    folder, tls = Path(sys.argv[1]), None
    if sys.argv[2:] == ["tls"]:
        authority = Authority()
        (folder / "root.pem").write_text(authority.pem)
        tls = authority.issue().context()
    async with DevKbs(tls=tls) as kbs:
        for path, value in material.read_held(folder).items():
            kbs.put(path, value)
        kbs.put(material.BIG, material.BIG_VALUE)

        async def handle(verb: str, arguments: dict[str, Any]) -> dict[str, object]:
            counted: dict[str, object] = dict(kbs.counters)
            match verb:
                case "reset":
                    kbs.counters.reset()
                case "silence":
                    kbs.faults.on("resource", Fault(Kind.BLACK_HOLE))
                case "speak":
                    kbs.faults.clear()
            return counted

        say(url=kbs.url)
        await obey(handle)


if __name__ == "__main__":
    asyncio.run(main())
