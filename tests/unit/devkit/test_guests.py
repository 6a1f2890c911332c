"""Simulated guests: what this machine lacks is named with the next step."""

from __future__ import annotations

import shutil

import pytest

from agent.cli import dev
from agent.cli.main import build_parser
from agent.devkit import fuse
from agent.devkit.guests import TEES, MissingToolError, guest


def test_dev_offers_every_guest() -> None:
    assert ("sample", *TEES) == dev.TEES
    assert build_parser("dev").parse_args(["dev", "--tee", "tdx"]).tee == "tdx"
    assert build_parser("dev").parse_args(["dev"]).tee == "sample"


def test_a_tee_that_cannot_be_simulated_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser("dev").parse_args(["dev", "--tee", "sgx"])
    assert "az-tdx-vtpm" in capsys.readouterr().err


@pytest.mark.parametrize("tee", ["snp", "tdx"])
async def test_without_fuse_the_next_step_is_named(tee: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse, "unavailable", lambda: "no fusermount3")
    with pytest.raises(
        MissingToolError, match=f"{tee} needs FUSE: no fusermount3. Run: sudo apt-get install fuse3"
    ):
        async with guest(tee):
            raise AssertionError("not reached")


@pytest.mark.parametrize("tee", ["az-snp-vtpm", "az-tdx-vtpm", "tpm"])
async def test_without_swtpm_the_next_step_is_named(tee: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match=f"{tee} needs swtpm. Run: sudo apt-get install swtpm"):
        async with guest(tee):
            raise AssertionError("not reached")
