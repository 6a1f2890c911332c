from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.files import read_beneath, read_trusted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"content")
    (tmp_path / "sub" / "file").chmod(0o600)
    return tmp_path


def refused(path: Path | str, limit: int = 100) -> str:
    with pytest.raises(AgentError) as caught:
        read_trusted(str(path), limit)
    assert caught.value.code is ErrorCode.FILE_UNSAFE
    return caught.value.detail


def test_a_plain_file_is_read(folder: Path) -> None:
    assert read_trusted(str(folder / "sub" / "file"), 100) == b"content"
    assert read_beneath(str(folder), "sub/file", 100) == b"content"


def test_a_relative_path_is_below_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert read_trusted("sub/file", 100) == b"content"


def test_the_limit_is_exact_and_nothing_is_cut(folder: Path) -> None:
    assert read_trusted(str(folder / "sub" / "file"), 7) == b"content"
    assert "larger than 6 bytes" in refused(folder / "sub" / "file", 6)


def test_what_is_missing_is_not_unsafe(folder: Path) -> None:
    for name in ("sub/none", "none/file"):
        with pytest.raises(FileNotFoundError):
            read_trusted(str(folder / name), 100)
    with pytest.raises(FileNotFoundError):
        read_beneath(str(folder / "none"), "file", 100)


def test_a_link_to_a_file_is_refused(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "sub" / "file")
    assert "symbolic link" in refused(folder / "link")


def test_a_link_on_the_way_is_refused(folder: Path) -> None:
    (folder / "way").symlink_to(folder / "sub")
    assert "symbolic link" in refused(folder / "way" / "file")


def test_a_dangling_link_is_refused_and_not_missing(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "none")
    refused(folder / "link")


def test_a_folder_a_device_and_a_pipe_are_refused(folder: Path) -> None:
    assert "not a regular file" in refused(folder / "sub")
    assert "not a regular file" in refused("/dev/null")
    os.mkfifo(folder / "pipe", 0o600)
    assert "not a regular file" in refused(folder / "pipe")  # and does not wait for a writer


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(folder: Path, mode: int) -> None:
    (folder / "sub" / "file").chmod(mode)
    assert "others may write" in refused(folder / "sub" / "file")


def test_a_strangers_file_is_refused(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(folder / "sub" / "file", 4242, -1)
    assert "owned by user 4242" in refused(folder / "sub" / "file")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../file", "sub/../file", "./sub/file", "sub/.", "a\0b", ".", ".."]
)
def test_a_name_cannot_leave_its_folder(folder: Path, name: str) -> None:
    with pytest.raises(AgentError) as caught:
        read_beneath(str(folder / "sub"), name, 100)
    assert caught.value.code is ErrorCode.FILE_UNSAFE


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(alphabet=st.sampled_from("./\0ab~é "), max_size=12))
def test_any_name_reads_below_the_folder_or_fails_in_a_known_way(folder: Path, name: str) -> None:
    (folder / "ab").write_bytes(b"outside")
    with contextlib.suppress(AgentError, FileNotFoundError):
        assert read_beneath(str(folder / "sub"), name, 100) != b"outside"


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    (folder / "link").symlink_to(folder / "sub" / "file")
    for name in ("link", "sub", "none", "sub/file"):
        with contextlib.suppress(AgentError, FileNotFoundError):
            read_trusted(str(folder / name), 3)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
