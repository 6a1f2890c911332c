"""Fixtures of the hub's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.hub import support
from tests.unit.hub.support import KEY_URI, PLAINTEXT, TARGET_URI, TEST_KEY, StoredGetter, jwk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def getter() -> StoredGetter:
    return StoredGetter({KEY_URI: jwk(TEST_KEY), TARGET_URI: PLAINTEXT})


@pytest.fixture
def key_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed-secret"
    folder.mkdir()
    support.write(folder / "test-key", jwk(TEST_KEY))
    return folder
