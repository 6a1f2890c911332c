"""Where credentials may be written, and what an attacker planted there before."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.hub.provision_files import below, place
from agent.secret import Secret
from tests.unit.hub.support import failure, unhurried

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "/run/confidential-containers/cdh/kbs"
FILE = f"{FOLDER}/kms-credential/aws/credential.json"
SECRET = Secret(b"c4n4ry")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "root"
    found.mkdir(mode=0o755)
    return found


def put(root: Path, path: str = FILE, content: Secret = SECRET) -> bool:
    return place(str(root), FOLDER, path, content)


def at(root: Path, path: str = FILE) -> Path:
    return root / path.lstrip("/")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_only_we_can_read_it_whatever_the_umask(root: Path, umask: int) -> None:
    at(root, FOLDER).mkdir(parents=True)
    before = os.umask(umask & ~0o700 if umask == 0o777 else umask)
    try:
        assert put(root)
    finally:
        os.umask(before)
    assert at(root).read_bytes() == b"c4n4ry"
    assert mode(at(root)) == 0o600
    assert mode(at(root).parent) == mode(at(root).parent.parent) == 0o700
    assert everything(root) == {FILE.lstrip("/")}


def test_missing_folders_are_ours_alone(root: Path) -> None:
    assert put(root)
    for folder in list(at(root).parents)[:5]:
        assert mode(folder) == 0o700


def test_the_same_content_is_left_alone(root: Path) -> None:
    assert put(root)
    inode = at(root).stat().st_ino
    assert not put(root)
    assert at(root).stat().st_ino == inode
    assert put(root, content=Secret(b"another"))
    assert at(root).read_bytes() == b"another"
    assert mode(at(root)) == 0o600


@pytest.mark.parametrize("wrong", [0o644, 0o640, 0o400])
def test_the_same_content_for_all_to_read_is_replaced(root: Path, wrong: int) -> None:
    put(root)
    at(root).chmod(wrong)
    assert put(root)
    assert mode(at(root)) == 0o600


def test_a_second_name_of_the_file_keeps_the_old_content(root: Path) -> None:
    put(root)
    other = root / "other"
    other.hardlink_to(at(root))
    assert put(root)  # though the content is the same: somebody else's name leads to it
    assert at(root).stat().st_ino != other.stat().st_ino


def test_a_link_at_its_name_is_replaced_and_not_followed(root: Path) -> None:
    victim = root / "victim"
    victim.write_bytes(b"untouched")
    at(root).parent.mkdir(parents=True, mode=0o700)
    for target in (victim, root / "nowhere"):
        at(root).unlink(missing_ok=True)
        at(root).symlink_to(target)
        assert put(root)
        assert not at(root).is_symlink()
        assert at(root).read_bytes() == b"c4n4ry"
    assert victim.read_bytes() == b"untouched"
    assert not (root / "nowhere").exists()


@pytest.mark.parametrize("depth", range(1, 6))
def test_a_link_on_the_way_is_refused(root: Path, depth: int) -> None:
    outside = root / "outside"
    outside.mkdir(mode=0o755)
    parts = FILE.lstrip("/").split("/")
    link = root.joinpath(*parts[:depth])
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(AgentError) as caught:
        put(root)
    assert caught.value.code is ErrorCode.FILE_UNSAFE
    assert everything(outside) == set()


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_something_else_on_the_way_is_refused(root: Path, kind: str) -> None:
    blocker = at(root).parent
    blocker.parent.mkdir(parents=True)
    os.mkfifo(blocker) if kind == "fifo" else blocker.write_bytes(b"")
    assert failure(lambda: put(root)) is ErrorCode.FILE_UNSAFE


def test_a_fifo_at_its_name_does_not_hang_and_is_replaced(root: Path) -> None:
    at(root).parent.mkdir(parents=True)
    os.mkfifo(at(root))
    assert put(root)
    assert at(root).read_bytes() == b"c4n4ry"


def test_a_folder_at_its_name_is_refused_and_nothing_is_left(root: Path) -> None:
    at(root).mkdir(parents=True)
    assert failure(lambda: put(root)) is ErrorCode.FILE_UNSAFE
    assert everything(root) == set()


@pytest.mark.parametrize(("bits", "refused"), [(0o777, True), (0o770, True), (0o1777, False), (0o755, False)])
def test_a_folder_others_may_write_to_is_refused(root: Path, bits: int, refused: bool) -> None:
    shared = at(root).parent
    shared.mkdir(parents=True)
    shared.chmod(bits)
    assert failure(lambda: put(root)) is (ErrorCode.FILE_UNSAFE if refused else None)
    assert at(root).exists() != refused


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(root: Path) -> None:
    at(root).parent.mkdir(parents=True)
    os.chown(at(root).parent, 12345, 12345)
    assert failure(lambda: put(root)) is ErrorCode.FILE_UNSAFE


@pytest.mark.parametrize(
    "path",
    [
        FOLDER,
        f"{FOLDER}/",
        f"{FOLDER}x/a",
        "/run/confidential-containers/cdhX/kbs/a",
        "/run/confidential-containers/cdh/sealed-secret/test-key",
        f"{FOLDER}/../sealed-secret/test-key",
        f"{FOLDER}/a/../../../x",
        f"{FOLDER}/./a",
        f"{FOLDER}//a",
        f"{FOLDER}/a/",
        f"{FOLDER}/..",
        f"{FOLDER}/a\0b",
        f"/{FOLDER}/a",
        f"/x/..{FOLDER}/a",
        FOLDER[1:] + "/a",
        "a",
        "",
        "/",
    ],
)
def test_a_path_elsewhere_is_refused(root: Path, path: str) -> None:
    assert failure(lambda: put(root, path)) is ErrorCode.FILE_UNSAFE
    assert everything(root) == set()


def test_a_name_too_long_is_refused(root: Path) -> None:
    assert failure(lambda: put(root, f"{FOLDER}/{'a' * 256}")) is ErrorCode.FILE_UNSAFE
    assert put(root, f"{FOLDER}/{'a' * 255}")


@unhurried
@given(
    st.lists(st.sampled_from(["..", ".", "", "kbs", "cdh", "a", "run", "kbsx", "\0"]), max_size=8).map(
        "/".join
    )
    | st.text(max_size=40)
)
def test_nothing_but_plain_segments_below_the_folder_passes(tail: str) -> None:
    for path in (tail, f"/{tail}", f"{FOLDER}/{tail}", f"{FOLDER}{tail}"):
        found: list[tuple[str, ...]] = []
        code = failure(lambda path=path, found=found: found.append(below(FOLDER, path)))  # type: ignore[misc]
        assert code in {None, ErrorCode.FILE_UNSAFE}
        assert all(path == os.path.normpath(path) == "/".join((FOLDER, *parts)) for parts in found)
