"""Evidence recorded on real hardware: read where it lies, never copied."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(
    os.environ.get("EVIDENCE_VECTORS") or Path(__file__).resolve().parents[2] / "shared" / "vectors"
)


def recorded(name: str) -> bytes:
    """One recording, e.g. ``snp/test-report.bin``. Without the folder the test is skipped; in CI it fails."""
    try:
        return (FOLDER / name).read_bytes()
    except FileNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no recorded evidence in {FOLDER}")
