"""The list that ``agent/readahead.py`` goes by: what a daemon loads up to its first attestation."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent.readahead import LIST
from rootfs import files, layout
from rootfs.tools import run

LOADED: Final = (
    "agent.cli.run", "agent.cli.serving", "agent.daemon.hub", "agent.daemon.gateway", "agent.tee.collector",
)  # fmt: skip

_PROGRAM: Final = f"""
import sys
for name in {LOADED}:
    __import__(name)
files = [module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
maps = [line.split()[-1] for line in open("/proc/self/maps") if ".so" in line]
print("\\n".join([*files, *sorted(maps)]))
"""


def write(root: Path) -> None:
    """Have the bundle's interpreter load it all, and write down in which order, libraries last.

    Raises:
        BuildError: something cannot be loaded.
    """
    home = root / layout.HOME
    names = run([root / layout.INTERPRETER, "-IS", "-c", _PROGRAM]).splitlines()
    # What the interpreter was built with has names, but no files.
    found = (Path(name) for name in dict.fromkeys(names) if name.startswith(f"{home}/"))
    inside = [path.relative_to(home) for path in found if path.is_file()]
    files.write(home / LIST, "".join(f"{name}\n" for name in inside))
