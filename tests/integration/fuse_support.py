"""FUSE or the reason why not: skipped on a laptop, an error in CI."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from agent.devkit import fuse


def need_fuse() -> None:
    reason = fuse.unavailable()
    if reason is not None:
        nothing_is_skipped_in_ci(reason)


def nothing_is_skipped_in_ci(reason: str) -> NoReturn:
    assert "CI" not in os.environ, f"in CI nothing is skipped: {reason}"
    pytest.skip(reason)
