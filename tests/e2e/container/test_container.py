"""Built, looked into, started as its user, and asked for a secret."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rootfs import layout
from tests.e2e.container.builder import ROOT, Builder, missing
from tests.e2e.container.world import PORT, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_MEGABYTES = 50
MOST_RESIDENT = 50 * 1000 * 1000 // 1024  # KiB
USER = 65532
REST = "http://127.0.0.1:8006"

pytestmark = pytest.mark.skipif("CI" not in os.environ and bool(missing()), reason=missing() or "nothing")


@dataclass(frozen=True, slots=True)
class Running:
    """The image's own command, running."""

    builder: Builder
    name: str
    files: Path
    within: tuple[str, ...]
    config: Any

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another command in the same container, as its user."""
        return subprocess.run(
            [*self.within, "buildah", "run", self.name, "--", *command],
            check=False,
            capture_output=True,
            text=True,
            env=self.builder.environment(),
        )

    def curl(self, path: str) -> bytes:
        patience = ("--retry", "20", "--retry-delay", "1", "--retry-connrefused", "--max-time", "60")
        command = [*self.within, "curl", "-sS", "--fail-with-body", *patience, f"{REST}{path}"]
        return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    assert not missing()
    memory = Path("/dev/shm")  # noqa: S108  # folders of files, copied often
    with tempfile.TemporaryDirectory(
        prefix="coco-container-", dir=memory if memory.is_dir() else None
    ) as folder:
        made = Builder(Path(folder))
        made.prepare()
        made.build()
        yield made


@pytest.fixture(scope="module")
def files(builder: Builder) -> Path:
    return builder.container()[1]


@contextmanager
def network() -> Iterator[tuple[str, ...]]:
    """A network of its own; the prefix that brings a command there."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        try:
            yield ("nsenter", f"--target={holder.pid}", "--net", "--")
        finally:
            holder.kill()


@contextmanager
def world(within: tuple[str, ...]) -> Iterator[Path]:
    """The broker, and a TPM in a folder, which the container's user may open."""
    command = [*within, sys.executable, "-m", "tests.e2e.container.world"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as around:
        assert around.stdout is not None
        device = Path(around.stdout.readline().decode().strip())
        try:
            shutil.chown(device, USER)  # a runtime would use --device and --group-add
            yield device.parent
        finally:
            around.terminate()


@pytest.fixture(scope="module")
def running(builder: Builder) -> Iterator[Running]:
    name, files = builder.container()
    settings = builder.folder / "agent.toml"
    settings.write_text(f'[kbs]\nurl = "http://127.0.0.1:{PORT}"\n[attester]\ntpm_device = "/tpm/tpmrm0"\n')
    config = builder.config()
    with network() as within, world(within) as tpm:
        mounts = (f"--volume={settings}:/etc/coco-agent/agent.toml:ro", f"--volume={tpm}:/tpm")
        started = Running(builder, name, files, within, config)
        command = [*within, "buildah", "run", *mounts, name, "--", *config["Entrypoint"]]
        with (builder.folder / "log").open("wb") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log, env=builder.environment())
        try:
            yield started
        except BaseException:
            print((builder.folder / "log").read_text())
            raise
        finally:
            for pid in processes(files):
                os.kill(pid, 15)
            daemon.wait(20)


def processes(files: Path) -> list[int]:
    """Those that run the container's interpreter."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and (entry / "exe").samefile(files / layout.INTERPRETER):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_nothing_that_builds_or_installs_is_inside(files: Path) -> None:
    names = {path.name for path in files.rglob("*")}
    tools = {"pip", "pip3", "setuptools", "wheel", "ensurepip", "apt", "apt-get", "dpkg", "gcc", "cc", "make"}
    assert names & (tools | {"sh", "bash", "dash", "busybox", "curl"}) == set()
    programs = {path for path in files.rglob("*") if path.parent.name in {"bin", "sbin"} and path.is_file()}
    assert {path.name for path in programs} == {
        "python3",
        "coco-agent",
        "attestation-agent",
        "confidential-data-hub",
        "api-server-rest",
    }


def test_the_development_kit_is_not_inside(files: Path) -> None:
    assert (files / layout.MODULES / "agent").is_dir()
    assert not (files / layout.MODULES / "agent/devkit").exists()


def test_no_file_gives_privileges_or_can_be_changed_by_its_user(files: Path) -> None:
    for path in files.rglob("*"):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            continue
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID), path
        ours = status.st_uid == USER or bool(status.st_mode & stat.S_IWOTH)
        assert not ours or path.parent == files / "run" or path == files / "tmp", path


def test_its_size(files: Path) -> None:
    size = sum(path.lstat().st_size for path in files.rglob("*") if not path.is_dir())
    print(f"\nimage: {size / 1e6:.1f} MB unpacked")
    assert size <= MOST_MEGABYTES * 1e6


def test_versions_are_those_of_the_lock(files: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    # Each package's licence comes along, in a folder with its version.
    found = [path.name.rpartition("-") for path in (files / layout.LICENSES / "python").iterdir()]
    others = [(name, version) for name, _, version in found if name != "nvidia_ml_py"]
    assert len(others) > 6
    for name, version in others:
        assert f"{name.replace('_', '-').lower()}=={version} " in lock


def test_the_pod_gets_its_secret(running: Running) -> None:
    assert running.curl("/cdh/resource/default/key/1") == SECRET


def test_the_health_check_asks_the_daemon(running: Running) -> None:
    running.curl("/healthz")
    kind, *command = running.config["Healthcheck"]["Test"]
    assert kind == "CMD"  # a shell would have to be there for the other kind
    assert running.run(*command).returncode == 0
    lonely = replace(running, within=("unshare", "--net"))
    assert lonely.run(*command).returncode != 0


def test_it_runs_as_its_user_with_no_way_to_more(running: Running) -> None:
    running.curl("/cdh/resource/default/key/1")
    [daemon] = processes(running.files)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{daemon}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == [str(USER)] * 4
    assert status["Gid"].split() == [str(USER)] * 4
    print(f"\ndaemon: {status['VmRSS'].strip()} resident after a fetch")
    assert int(status["VmRSS"].split()[0]) <= MOST_RESIDENT


def test_the_roles_of_kata_are_there_under_their_names(running: Running) -> None:
    for program in ("attestation-agent", "confidential-data-hub", "api-server-rest"):
        assert "coco-agent" in running.run(program, "--version").stdout
