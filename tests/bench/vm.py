"""Figures of the boot in a virtual machine, which ``make e2e`` took."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.e2e.boot.figures import FIGURES

if TYPE_CHECKING:
    from tests.bench.parts import Bench


async def virtual_machine(run: Bench) -> list[str]:
    """Copy them; a line to print where there are none."""
    if not FIGURES.exists():
        return ["vm: no figures. Next: make e2e"]
    for key, value in json.loads(FIGURES.read_text()).items():
        run.figures.put(key, value)
    return []
