from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agent import readahead

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


PYTHON = sys.executable


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of a bundle; on a machine with two processors at least."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    yield tmp_path
    readahead.finish()


def told(bundle: Path, *names: str) -> None:
    (bundle / readahead.LIST).write_text("".join(f"{name}\n" for name in names))


def pipe(bundle: Path, name: str) -> Path:
    """A file that whoever opens it waits at, until it is opened for writing."""
    os.mkfifo(bundle / name)
    return bundle / name


def is_waited_at(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    return True


def is_opened(what: Path) -> bool:
    """Within 5 s."""
    for _ in range(1000):
        if is_waited_at(what):
            return True
        time.sleep(0.005)
    return False


def assert_no_child() -> None:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_what_is_listed_is_opened_and_what_is_missing_is_passed_over(bundle: Path) -> None:
    told(bundle, "gone", "lib/there", "second")
    (bundle / "lib").mkdir()
    first, second = pipe(bundle, "lib/there"), pipe(bundle, "second")
    readahead.begin()
    assert is_opened(first)
    assert is_opened(second)


def test_a_reader_that_hangs_is_gone_when_it_is_of_no_use(bundle: Path) -> None:
    told(bundle, "never")
    pipe(bundle, "never")
    readahead.begin()
    readahead.finish()
    assert_no_child()
    readahead.finish()


def test_the_readers_exit_is_nobodys_business(bundle: Path) -> None:
    told(bundle, "file")
    (bundle / "file").write_bytes(b"content")
    readahead.begin()
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    readahead.finish()
    assert_no_child()


def test_the_reader_holds_no_socket_of_the_daemons(bundle: Path) -> None:
    told(bundle, "never")
    waiting = pipe(bundle, "never")
    reading, writing = os.pipe()
    try:
        readahead.begin()
        os.close(writing)
        assert os.read(reading, 1) == b""  # the end of the pipe: no other process has it open
        assert is_opened(waiting)
    finally:
        os.close(reading)


def test_the_end_of_the_daemons_output_is_not_held_up(bundle: Path) -> None:
    told(bundle, "never")
    waiting = pipe(bundle, "never")
    program = (
        "import os, sys\nfrom agent import readahead\n"
        "sys.executable = sys.argv[1]\nos.sched_getaffinity = lambda _: {0, 1}\nreadahead.begin()\n"
    )
    # Ends when both of its outputs are at their end, and not before.
    subprocess.run(
        [PYTHON, "-c", program, str(bundle / "bin" / "python3")],
        check=True,
        capture_output=True,
        timeout=20,
    )
    assert is_opened(waiting)


def test_links_are_not_followed(bundle: Path) -> None:
    told(bundle, "link", "second")
    target, second = pipe(bundle, "target"), pipe(bundle, "second")
    (bundle / "link").symlink_to(target)
    readahead.begin()
    assert is_opened(second)
    assert not is_waited_at(target)


def test_a_machine_with_one_processor_reads_when_it_has_to(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(bundle, "file")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    readahead.begin()
    assert_no_child()


@pytest.mark.parametrize("there", ["nothing", "no list", "an empty list"])
def test_without_a_list_nothing_is_started(bundle: Path, there: str) -> None:
    if there == "nothing":
        bundle.rmdir()
    elif there == "an empty list":
        told(bundle)
    readahead.begin()
    assert_no_child()


def test_a_process_that_cannot_be_had_is_done_without(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(bundle, "file")

    def refuse() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)
    readahead.begin()
    assert_no_child()


@pytest.mark.parametrize(
    ("start", "readers"),
    [
        ("from agent.cli.main import main; main(['serve', '--aa-config', '/nowhere'])", 1),
        ("from agent.cli.launch import launch; launch('attestation-agent', ['-c', '/nowhere'])", 1),
        ("from agent.cli.launch import launch; launch('attestation-agent', ['--version'])", 0),
        ("from agent.cli.main import main; main(['explain', 'NO_TEE'])", 0),
    ],
    ids=["serve", "launcher", "launcher about itself", "another command"],
)
def test_programs_that_serve_read_ahead(bundle: Path, start: str, readers: int) -> None:
    told(bundle, "file")
    (bundle / "file").write_bytes(b"content")
    program = (
        "import atexit, os, sys\nfrom agent import readahead\n"
        "sys.executable = sys.argv.pop()\nos.sched_getaffinity = lambda _: {0, 1}\n"
        f"atexit.register(lambda: print('readers', len(readahead._readers)))\n{start}\n"
    )
    done = subprocess.run(
        [PYTHON, "-c", program, str(bundle / "bin" / "python3")],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout.splitlines()[-1] == f"readers {readers}"
