"""Platforms without hardware; the simulated TEEs are in tests/integration/test_simulated_tees.py."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agent.clock import Deadline
from agent.config.model import Attester
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.tee.binding import bind_digest, read_document
from tests.unit.tee.test_initdata import DOCUMENT

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = Deadline.after(FakeClock(), 10)


@pytest.fixture
def settings(tmp_path: Path) -> Attester:
    return Attester(sysroot=str(tmp_path / "root"))


async def refused(digest: bytes, settings: Attester) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await bind_digest(digest, settings, DEADLINE)
    return caught.value


async def test_without_a_register_init_data_ends_the_start(settings: Attester) -> None:
    error = await refused(bytes(32), settings)
    assert error.code is ErrorCode.NOT_SUPPORTED
    assert "allow_unbound_init_data" in error.detail


async def test_only_the_configuration_lets_it_pass(
    settings: Attester, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "initdata.toml"
    path.write_bytes(DOCUMENT)
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING, "coco.initdata"):
        document = read_document(str(path))
        bound = await bind_digest(document.digest, replace(settings, allow_unbound_init_data=True), DEADLINE)
    assert not bound
    assert document.text.encode() == DOCUMENT
    assert "NOT BOUND" in caplog.text


@pytest.mark.parametrize("size", [0, 31, 65])
async def test_a_digest_of_another_size_is_refused(size: int, settings: Attester) -> None:
    assert (await refused(bytes(size), settings)).code is ErrorCode.CONFIG_INVALID


async def test_a_file_that_is_not_there_is_named(settings: Attester, tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="no such file"):
        read_document(str(tmp_path / "none.toml"))


async def test_a_tee_without_such_a_register_needs_the_same_permission(
    settings: Attester, tmp_path: Path
) -> None:
    root = tmp_path / "root" / "dev"
    root.mkdir(parents=True)
    (root / "csv-guest").touch()
    assert (await refused(bytes(32), settings)).code is ErrorCode.NOT_SUPPORTED
    await bind_digest(bytes(32), replace(settings, allow_unbound_init_data=True), DEADLINE)
