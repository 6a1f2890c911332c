from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.limits import SOCKET_PATH_MAX as MAX_PATH
from agent.errors import AgentError, ErrorCode
from agent.serve.sockets import UnixAddress, listen_unix, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterator


def connects(path: Path | str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


@pytest.fixture
def folder() -> Iterator[Path]:
    # Shorter than tmp_path, which holds the test's name: a socket's path has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="coco") as name:
        yield Path(name)


class TestParse:
    def test_a_path(self) -> None:
        address = parse_address("unix:///run/confidential-containers/cdh.sock")
        assert address == UnixAddress("/run/confidential-containers/cdh.sock")
        assert address.target == "/run/confidential-containers/cdh.sock"
        assert str(address) == "unix:///run/confidential-containers/cdh.sock"

    def test_an_abstract_name(self) -> None:
        address = parse_address("unix://@cdh")
        assert address == UnixAddress("cdh", abstract=True)
        assert address.target == "\0cdh"
        assert str(address) == "unix://@cdh"

    @pytest.mark.parametrize(
        "text",
        ["", "/run/x", "unix:", "unix://", "unix://@", "unix://run/x", "unix:///run/", "unix:///a\0b",
         "vsock://3:1", "127.0.0.1:50000"],
    )  # fmt: skip
    def test_others_are_refused(self, text: str) -> None:
        with pytest.raises(AgentError) as caught:
            parse_address(text)
        assert caught.value.code is ErrorCode.CONFIG_INVALID

    def test_a_path_of_107_bytes_is_the_longest(self) -> None:
        assert parse_address("unix:///" + "a" * (MAX_PATH - 1)).target
        with pytest.raises(AgentError, match="at most 107"):
            parse_address("unix:///" + "a" * MAX_PATH)
        with pytest.raises(AgentError, match="at most 107"):
            parse_address("unix:///" + "ä" * 54)

    @settings(max_examples=100)
    @given(st.text(max_size=150).map("unix://".__add__) | st.text(max_size=30))
    def test_only_the_declared_error_leaves(self, text: str) -> None:
        with contextlib.suppress(AgentError):
            assert str(parse_address(text)) == text


class TestListen:
    def test_it_accepts_and_leaves_nothing_else_behind(self, folder: Path) -> None:
        path = folder / "a" / "b" / "s.sock"
        with listen_unix(f"unix://{path}"):
            assert connects(path)
            assert list(path.parent.iterdir()) == [path]
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755

    def test_only_its_owner_may_connect(self, folder: Path) -> None:
        before = os.umask(0)
        try:
            with listen_unix(f"unix://{folder}/s"):
                assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o600
        finally:
            os.umask(before)

    def test_another_mode(self, folder: Path) -> None:
        with listen_unix(f"unix://{folder}/s", mode=0o666):
            assert stat.S_IMODE((folder / "s").stat().st_mode) == 0o666

    def test_a_stale_file_is_replaced(self, folder: Path) -> None:
        (folder / "s").write_bytes(b"")
        with listen_unix(f"unix://{folder}/s"):
            assert connects(folder / "s")

    def test_a_live_socket_is_replaced(self, folder: Path) -> None:
        with listen_unix(f"unix://{folder}/s"), listen_unix(f"unix://{folder}/s") as second:
            assert connects(folder / "s")
            second.accept()[0].close()  # it was this one that was reached

    def test_a_planted_link_is_replaced_and_not_followed(self, folder: Path) -> None:
        victim = folder / "victim"
        victim.write_bytes(b"precious")
        (folder / "s").symlink_to(victim)
        with listen_unix(f"unix://{folder}/s"):
            assert victim.read_bytes() == b"precious"
            assert not (folder / "s").is_symlink()
            assert connects(folder / "s")

    def test_the_longest_path_works_although_the_temporary_name_is_longer(self, folder: Path) -> None:
        deep = folder / ("d" * (MAX_PATH - len(os.fsencode(folder)) - len("//s")))
        path = deep / "s"
        assert len(os.fsencode(path)) == MAX_PATH
        with listen_unix(f"unix://{path}"):
            assert connects(path)

    def test_a_folder_at_the_name_is_an_error_and_leaves_nothing(self, folder: Path) -> None:
        (folder / "s" / "inside").mkdir(parents=True)
        with pytest.raises(AgentError) as caught:
            listen_unix(f"unix://{folder}/s")
        assert caught.value.code is ErrorCode.CONFIG_INVALID
        assert list(folder.iterdir()) == [folder / "s"]

    def test_a_file_in_the_way_is_an_error(self, folder: Path) -> None:
        (folder / "f").write_bytes(b"")
        with pytest.raises(AgentError, match="Not a directory"):
            listen_unix(f"unix://{folder}/f/s")

    def test_an_abstract_name(self) -> None:
        name = f"coco-agent-test-{os.getpid()}"
        with listen_unix(f"unix://@{name}") as listener:
            assert connects(f"\0{name}")
            listener.unlink()
            with pytest.raises(AgentError, match="in use"):
                listen_unix(f"unix://@{name}")


class TestUnlink:
    def test_its_own_file_goes(self, folder: Path) -> None:
        with listen_unix(f"unix://{folder}/s") as listener:
            listener.unlink()
            assert not (folder / "s").exists()
            listener.unlink()

    def test_a_successor_s_file_stays(self, folder: Path) -> None:
        with listen_unix(f"unix://{folder}/s") as first, listen_unix(f"unix://{folder}/s"):
            first.unlink()
            assert connects(folder / "s")

    def test_a_link_to_its_own_file_stays(self, folder: Path) -> None:
        with listen_unix(f"unix://{folder}/s") as listener:
            (folder / "s").rename(folder / "moved")
            (folder / "s").symlink_to("moved")
            listener.unlink()
            assert (folder / "s").is_symlink()
