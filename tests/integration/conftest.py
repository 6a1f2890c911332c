"""Fixtures: a development KBS and an agent, in this process, on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.devkit.playground import playground

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.devkit.playground import Playground


@pytest.fixture
async def place() -> AsyncIterator[Playground]:
    async with playground() as running:
        yield running
