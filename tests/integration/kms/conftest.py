"""Fixtures of the contract."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.integration.kms.stand import Stand

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def stand(
    request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Stand]:
    """The fake that the test is parametrised with, running; every test checks for secrets and complaints."""
    caplog.set_level(logging.DEBUG)
    async with Stand(request.param(), tmp_path).running() as running:
        yield running
    assert running.fake.complaints == []
    assert running.leaks(caplog.text) == []
