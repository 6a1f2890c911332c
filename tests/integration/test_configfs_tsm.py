"""The simulated kernel interfaces behave as the kernel's (attesters.md 3.3, 4; python_runtime.md 7a, 7d)."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.devkit.configfs_tsm import ALL, SHOWN, ConfigfsTsm
from agent.devkit.tdx_sysfs import NAMES, TdxMeasurements
from tests.integration.fuse_support import need_fuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.integration

IN = bytes(range(64))


@pytest.fixture(autouse=True)
def fuse_is_there() -> None:
    need_fuse()


def quote(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
    return b"quote" + bytes([privlevel]) + inblob, b"table" if privlevel else b""


@pytest.fixture
def tsm(tmp_path: Path) -> Iterator[ConfigfsTsm]:
    with ConfigfsTsm(tmp_path / "report", "sev_guest", quote, privlevel_floor=1).mounted() as mounted:
        yield mounted


@pytest.fixture
def entry(tsm: ConfigfsTsm) -> Path:
    folder = tsm.mountpoint / "one"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(path: Path, data: bytes) -> None:
    opened = os.open(path, os.O_WRONLY)
    try:
        assert os.write(opened, data) == len(data)
    finally:
        os.close(opened)


def refusal(act: Callable[[], object]) -> int:
    with pytest.raises(OSError, match=r".") as error:
        act()
    assert error.value.errno is not None
    return error.value.errno


def generation(entry: Path) -> bytes:
    return (entry / "generation").read_bytes()


def test_mkdir_makes_the_attributes_and_rmdir_takes_them(tsm: ConfigfsTsm, entry: Path) -> None:
    assert names(entry) == sorted(ALL)
    assert len(ALL) == 11
    for name in ALL:
        status = (entry / name).stat()
        secret = name in {"inblob", "privlevel"} or (name.startswith("service"))
        assert stat.S_IMODE(status.st_mode) == (0o200 if secret else 0o444)
        assert status.st_size == (0 if name.endswith("blob") else 4096)
    entry.rmdir()
    assert tsm.entries == ()
    assert list(tsm.mountpoint.iterdir()) == []


def test_drivers_show_what_theirs_show(tmp_path: Path) -> None:
    with ConfigfsTsm(tmp_path, "tdx_guest", quote, attributes=SHOWN["tdx_guest"]).mounted():
        (tmp_path / "one").mkdir()
        assert names(tmp_path / "one") == ["generation", "inblob", "outblob", "provider"]
        assert refusal((tmp_path / "one" / "auxblob").read_bytes) == errno.ENOENT


def test_texts_end_in_a_newline(entry: Path) -> None:
    assert (entry / "provider").read_bytes() == b"sev_guest\n"
    assert (entry / "privlevel_floor").read_bytes() == b"1\n"
    assert generation(entry) == b"0\n"


def test_a_report_is_over_the_inblob_and_privlevel(entry: Path) -> None:
    put(entry / "privlevel", b"2")
    put(entry / "inblob", IN)
    assert (entry / "outblob").read_bytes() == b"quote\x02" + IN
    assert (entry / "auxblob").read_bytes() == b"table"
    assert generation(entry) == b"2\n"


def test_the_inblob_is_applied_by_close(entry: Path) -> None:
    opened = os.open(entry / "inblob", os.O_WRONLY)
    os.write(opened, IN[:32])
    os.write(opened, IN[32:])
    assert generation(entry) == b"0\n"
    os.close(opened)
    assert generation(entry) == b"1\n"
    assert (entry / "outblob").read_bytes().endswith(IN)


def test_a_report_is_made_once_until_something_is_written(tsm: ConfigfsTsm, entry: Path) -> None:
    put(entry / "inblob", IN)
    first = (entry / "outblob").read_bytes()
    assert (entry / "outblob").read_bytes() == first
    assert tsm.reports == 1
    put(entry / "inblob", IN[::-1])
    assert (entry / "outblob").read_bytes() != first
    assert tsm.reports == 2


def test_there_is_no_report_before_an_inblob(entry: Path) -> None:
    assert refusal((entry / "outblob").read_bytes) == errno.EINVAL
    assert refusal((entry / "auxblob").read_bytes) == errno.EINVAL


def test_an_empty_auxblob_is_einval(entry: Path) -> None:
    put(entry / "inblob", IN)
    (entry / "outblob").read_bytes()
    assert refusal((entry / "auxblob").read_bytes) == errno.EINVAL


@pytest.mark.parametrize("size", [65, 4096])
def test_a_large_inblob_is_efbig(entry: Path, size: int) -> None:
    put(entry / "inblob", IN)
    assert refusal(lambda: put(entry / "inblob", bytes(size))) == errno.EFBIG
    # The kernel applies the file that was written to all the same: it is empty.
    assert generation(entry) == b"2\n"
    assert refusal((entry / "outblob").read_bytes) == errno.EINVAL


def test_an_inblob_of_the_wrong_size_shows_at_the_outblob(entry: Path) -> None:
    put(entry / "inblob", bytes(32))
    assert generation(entry) == b"1\n"
    assert refusal((entry / "outblob").read_bytes) == errno.EINVAL


@pytest.mark.parametrize("level", [b"0", b"4", b"\x02", b" 2", b"2\n\n", b"0o2", b"one", b"-1"])
def test_levels_outside_floor_and_three_are_einval(entry: Path, level: bytes) -> None:
    assert refusal(lambda: put(entry / "privlevel", level)) == errno.EINVAL
    assert generation(entry) == b"0\n"


def test_every_option_counts_as_a_write(entry: Path) -> None:
    put(entry / "service_provider", b"svsm\n")
    put(entry / "service_manifest_version", b"1")
    put(entry / "privlevel", b"3\n")
    put(entry / "privlevel", b"0x2")
    assert generation(entry) == b"4\n"
    assert refusal(lambda: put(entry / "privlevel", b"4294967296")) == errno.ERANGE


def test_modes_hold_for_root_too(entry: Path) -> None:
    assert refusal((entry / "inblob").read_bytes) == errno.EACCES
    assert refusal(lambda: put(entry / "outblob", b"x")) == errno.EACCES
    assert refusal(lambda: os.open(entry / "inblob", os.O_RDWR)) == errno.EACCES


def test_only_the_kernel_makes_files(tsm: ConfigfsTsm, entry: Path) -> None:
    assert refusal(lambda: (entry / "mine").write_bytes(b"")) == errno.EACCES
    assert refusal(lambda: (tsm.mountpoint / "mine").write_bytes(b"")) == errno.EACCES
    assert refusal((entry / "inner").mkdir) == errno.EPERM
    assert refusal((entry / "inblob").unlink) == errno.EPERM
    assert refusal(entry.mkdir) == errno.EEXIST


def test_without_a_provider_nothing_can_be_made(tsm: ConfigfsTsm, entry: Path) -> None:
    put(entry / "inblob", IN)
    tsm.provider = None
    assert refusal((tsm.mountpoint / "two").mkdir) == errno.ENXIO
    assert refusal((entry / "outblob").read_bytes) == errno.ENXIO
    assert refusal((entry / "provider").read_bytes) == errno.ENXIO


def test_a_report_beyond_the_limit_is_efbig(tmp_path: Path) -> None:
    def huge(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        return bytes(32 * 1024 + 1), b""

    with ConfigfsTsm(tmp_path, "tdx_guest", huge, outblob_max=32 * 1024).mounted():
        (tmp_path / "one").mkdir()
        put(tmp_path / "one" / "inblob", IN)
        assert refusal((tmp_path / "one" / "outblob").read_bytes) == errno.EFBIG


def test_errors_come_in_their_order(tsm: ConfigfsTsm, entry: Path) -> None:
    tsm.faults.errors.extend([errno.EBUSY, errno.ETIMEDOUT, errno.EIO])
    put(entry / "inblob", IN)
    got = [refusal((entry / "outblob").read_bytes) for _ in range(3)]
    assert got == [errno.EBUSY, errno.ETIMEDOUT, errno.EIO]
    assert (entry / "outblob").read_bytes().endswith(IN)


def test_what_the_quote_raises_is_the_answer(tmp_path: Path) -> None:
    def locked(inblob: bytes, privlevel: int) -> tuple[bytes, bytes]:
        raise PermissionError(errno.EPERM, "")

    with ConfigfsTsm(tmp_path, "tdx_guest", locked).mounted():
        (tmp_path / "one").mkdir()
        put(tmp_path / "one" / "inblob", IN)
        assert refusal((tmp_path / "one" / "outblob").read_bytes) == errno.EPERM


def test_a_reader_that_hangs_can_be_killed(tsm: ConfigfsTsm, entry: Path) -> None:
    tsm.faults.hang = True
    put(entry / "inblob", IN)
    with subprocess.Popen(["cat", str(entry / "outblob")], stdout=subprocess.DEVNULL) as reader:
        assert tsm.hanging.wait(20)
        reader.kill()
        assert reader.wait(20) == -signal.SIGKILL
    tsm.faults.hang = False
    assert (entry / "outblob").read_bytes().endswith(IN)


def test_others_are_served_while_one_hangs(tsm: ConfigfsTsm, entry: Path) -> None:
    tsm.faults.hang = True
    put(entry / "inblob", IN)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((entry / "outblob").read_bytes()))
    reader.start()
    assert tsm.hanging.wait(20)
    (tsm.mountpoint / "two").mkdir()
    assert generation(tsm.mountpoint / "two") == b"0\n"
    tsm.faults.hang = False
    reader.join(20)
    assert got == [b"quote\x00" + IN]


def test_it_is_gone_after_an_error_in_the_body(tmp_path: Path) -> None:
    tsm = ConfigfsTsm(tmp_path, "tdx_guest", quote)
    opened = []

    def fail() -> None:
        opened.append(os.open(tmp_path, os.O_RDONLY))  # somebody still stands in it
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tsm.mounted():
        fail()
    os.close(opened[0])
    assert not os.path.ismount(tmp_path)
    with tsm.mounted():  # and it can be mounted again
        (tmp_path / "one").mkdir()
    assert not os.path.ismount(tmp_path)


def test_it_is_gone_when_its_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from agent.devkit.configfs_tsm import ConfigfsTsm\n"
        "with ConfigfsTsm(sys.argv[1], 'tdx_guest', lambda i, p: (i, b'')).mounted():\n"
        "    print('mounted', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"mounted\n"
        assert os.path.ismount(tmp_path)
        owner.kill()
    # The shim sees its input end; there is nothing to wait on but the mount itself.
    done = threading.Event()
    for _ in range(1000):
        if not os.path.ismount(tmp_path):
            break
        done.wait(0.02)
    assert not os.path.ismount(tmp_path)


def test_it_is_gone_when_its_shim_is_killed(tmp_path: Path) -> None:
    with ConfigfsTsm(tmp_path, "tdx_guest", quote).mounted():
        wanted = f"fuse_shim\0{tmp_path}\0".encode()
        shims = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone meanwhile
                if wanted in (process / "cmdline").read_bytes():
                    shims.append(int(process.name))
        assert len(shims) == 1
        for shim in shims:
            os.kill(shim, signal.SIGKILL)
            os.waitid(os.P_PID, shim, os.WEXITED | os.WNOWAIT)
        with pytest.raises(OSError, match="not connected"):
            list(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


# --- measurement registers -------------------------------------------------------------------------


@pytest.fixture
def registers(tmp_path: Path) -> Iterator[TdxMeasurements]:
    with TdxMeasurements(tmp_path / "measurements", {"mrconfigid": b"\x07" * 48}).mounted() as mounted:
        yield mounted


def test_registers_are_48_bytes_each(registers: TdxMeasurements) -> None:
    assert names(registers.mountpoint) == sorted(NAMES)
    for name in NAMES:
        path = registers.mountpoint / name
        assert path.stat().st_size == 48
        assert stat.S_IMODE(path.stat().st_mode) == (0o644 if name.startswith("rtmr") else 0o444)
        assert len(path.read_bytes()) == 48
    assert (registers.mountpoint / "mrconfigid").read_bytes() == b"\x07" * 48


def test_a_write_extends(registers: TdxMeasurements) -> None:
    path = registers.mountpoint / "rtmr2:sha384"
    digest = hashlib.sha384(b"event").digest()
    put(path, digest)
    expected = hashlib.sha384(bytes(48) + digest).digest()
    assert path.read_bytes() == expected == registers.value("rtmr2:sha384")
    put(path, digest)
    assert path.read_bytes() == hashlib.sha384(expected + digest).digest()
    assert registers.rtmrs()[3] == bytes(48)


@pytest.mark.parametrize(("size", "offset"), [(47, 0), (1, 0), (48, 1), (24, 24), (49, 47)])
def test_other_writes_are_einval_and_extend_nothing(
    registers: TdxMeasurements, size: int, offset: int
) -> None:
    opened = os.open(registers.mountpoint / "rtmr0:sha384", os.O_WRONLY)
    try:
        assert refusal(lambda: os.pwrite(opened, bytes(size), offset)) == errno.EINVAL
    finally:
        os.close(opened)
    assert registers.value("rtmr0:sha384") == bytes(48)


def test_sysfs_cuts_what_is_longer_and_ends_where_the_register_ends(registers: TdxMeasurements) -> None:
    opened = os.open(registers.mountpoint / "rtmr0:sha384", os.O_WRONLY)
    try:
        assert os.write(opened, bytes(64)) == 48
        assert refusal(lambda: os.write(opened, bytes(48))) == errno.EFBIG
    finally:
        os.close(opened)
    assert registers.value("rtmr0:sha384") == hashlib.sha384(bytes(96)).digest()


def test_what_is_no_rtmr_is_read_only(registers: TdxMeasurements) -> None:
    assert refusal(lambda: put(registers.mountpoint / "mrconfigid", bytes(48))) == errno.EACCES
    assert refusal((registers.mountpoint / "rtmr4:sha384").read_bytes) == errno.ENOENT


def test_values_have_their_size() -> None:
    with pytest.raises(ValueError, match="48 bytes"):
        TdxMeasurements("x", {"mrconfigid": b""})
    with pytest.raises(ValueError, match="mrconfigid"):
        TdxMeasurements("x", {"rtmr9:sha384": bytes(48)})
