"""What the boot measured, kept for ``make bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

FIGURES: Final = Path(__file__).resolve().parents[3] / "build" / "boot" / "figures.json"


def write(figures: dict[str, float | str]) -> None:
    """Keep them; the keys are those of bench.json."""
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
