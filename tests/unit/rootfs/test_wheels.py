from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rootfs.errors import BuildError
from rootfs.wheels import ROOT, Wheel, normalised, parse_lock, parse_report, requirements

if TYPE_CHECKING:
    from pathlib import Path

LOCK = """\
# a comment==1
Http_Thing==3.14.5 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
cffi==2.1.1 ; platform_python_implementation != 'PyPy' \\
    --hash=sha256:cc
"""


def test_entries_keep_their_hashes_and_markers() -> None:
    lock = parse_lock(LOCK)
    assert {name: entry.version for name, entry in lock.items()} == {
        "http-thing": "3.14.5",
        "cffi": "2.1.1",
    }
    assert lock["http-thing"].text.count("--hash=sha256:") == 2
    assert "; platform_python_implementation" in lock["cffi"].text


def test_the_bundle_holds_the_runtime_lock_and_the_gpu_library() -> None:
    names = {one.name for one in requirements()}
    assert names == set(parse_lock((ROOT / "requirements.lock").read_text())) | {"nvidia-ml-py"}
    assert not names & {"aiohttp", "grpcio", "mfusepy", "pytest", "cyclonedx-python-lib"}


def test_an_extra_without_a_pin_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "requirements-dev.lock").write_text(LOCK)
    with pytest.raises(BuildError, match=r"nvidia-ml-py\. Next: make lock"):
        requirements(tmp_path)


def test_the_report_tells_which_file_of_several_was_taken() -> None:
    def item(name: str, digest: str) -> dict[str, object]:
        archive = {"hash": f"sha256={digest}", "hashes": {"sha256": digest}}
        download = {"url": "https://example/x.whl", "archive_info": archive}
        return {"download_info": download, "metadata": {"name": name, "version": "1.0"}, "requested": True}

    report = {"version": "1", "install": [item("Yarl", "02"), item("attrs", "01")]}
    assert parse_report(json.dumps(report).encode()) == [
        Wheel("attrs", "1.0", "01"),
        Wheel("yarl", "1.0", "02"),
    ]


def test_names_compare_as_pip_does() -> None:
    assert normalised("Nvidia_ML.py") == "nvidia-ml-py"
