"""Fixtures of the backends' tests."""

from __future__ import annotations

import pytest

from agent.devkit.pki import Authority


@pytest.fixture(scope="session")
def authority_pem() -> str:
    """A CA certificate."""
    return Authority().pem
