"""The extension image, really built: twice the same, whole, and run as kata-agent runs it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from agent import readahead
from agent.cli.main import COMMANDS
from rootfs import elf, extension, image, layout, tools
from rootfs.bundle import CACHE
from rootfs.errors import BuildError
from rootfs.manifest import COMPONENTS as MANIFEST
from rootfs.wheels import ROOT
from tests import kata
from tests.bench.bundle import AA, CDH, REST
from tests.bench.extension import RESOURCE, VALUE, inside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rootfs.product import Built
    from tests.bench.children import Child

pytestmark = pytest.mark.integration

CHECKOUT = ("agent", "rootfs", "pyproject.toml", "requirements.lock", "requirements-dev.lock", "LICENSE")
RSS_MAX_MB = 50
AA_SOCKET_MAX_S = 0.6
# On a machine that others use, wall time tells nothing. Processor time over that of a bare interpreter does:
# 0.6 s are 50 times the 12 ms it takes where 0.6 s was measured.
AA_SOCKET_MAX_BARE = 50


def unavailable() -> str | None:
    if sys.platform != "linux" or shutil.which("apt-get") is None:
        return "images are built on Debian"
    if os.geteuid() != 0:
        return "mounting an image takes root"
    absent = tools.missing()
    if absent:
        return f"apt-get install {' '.join(sorted({tools.PACKAGES[name] for name in absent}))}"
    return None


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two builds at the same time: of this checkout, and of a copy elsewhere, umask and locale another."""
    reason = unavailable()
    if reason is not None:
        assert "CI" not in os.environ, f"in CI nothing is skipped: {reason}"
        pytest.skip(reason)
    copy = tmp_path_factory.mktemp("elsewhere") / "some" / "where" / "else"
    copy.mkdir(parents=True)
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    other = copy / "build" / "image"
    environment = {
        **os.environ,
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "PYTHONPATH": str(copy),
    }
    second = subprocess.Popen(
        [sys.executable, "-m", "rootfs", "extension", "--output", str(other), "--cache", str(copy / "cache")],
        cwd=copy,
        env=environment,
        umask=0o077,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if extension.PRODUCT.current(extension.OUTPUT) is None:
            extension.build(extension.OUTPUT, CACHE)
        _, said = second.communicate(timeout=300)
    finally:
        second.kill()
    assert second.returncode == 0, said
    return extension.OUTPUT, other


@pytest.fixture(scope="session")
def output(outputs: tuple[Path, Path]) -> Path:
    return outputs[0]


@pytest.fixture(scope="session")
def built(output: Path) -> Built:
    found = extension.PRODUCT.current(output)
    assert found is not None
    return found


@pytest.fixture
async def guest(output: Path, tmp_path: Path) -> AsyncIterator[Child]:
    async with inside(output / extension.PRODUCT.erofs, tmp_path / "guest.log") as running:
        await running.read()
        yield running


async def ran(guest: Child, *command: str, **environment: str) -> bytes:
    answer = await guest.ask("run", command=command, environment=environment)
    assert answer["status"] == 0, answer["errors"]
    return base64.b64decode(answer["output"])


def test_two_builds_give_the_same_bytes(outputs: tuple[Path, Path]) -> None:
    for name in extension.PRODUCT.names:
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes(), name


def test_the_image_is_as_small_as_promised(built: Built) -> None:
    assert built.erofs_bytes <= extension.PRODUCT.most == 24 << 20


def test_one_changed_bit_is_found(output: Path, built: Built, tmp_path: Path) -> None:
    image.verify(output / extension.PRODUCT.erofs, output / extension.PRODUCT.tree, built.verity)
    changed = bytearray((output / extension.PRODUCT.erofs).read_bytes())
    changed[len(changed) // 3] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    with pytest.raises(BuildError, match="Verification of data area failed"):
        image.verify(tmp_path / "changed", output / extension.PRODUCT.tree, built.verity)


def test_the_disk_holds_both_parts_where_kata_looks(output: Path, built: Built) -> None:
    table = json.loads(tools.run(["sfdisk", "--json", output / extension.PRODUCT.disk]))["partitiontable"]
    assert table["label"] == "dos"
    disk = (output / extension.PRODUCT.disk).read_bytes()
    for part, name in zip(
        table["partitions"], (extension.PRODUCT.erofs, extension.PRODUCT.tree), strict=True
    ):
        content = (output / name).read_bytes()
        assert disk[part["start"] * 512 :][: len(content)] == content
    assert table["partitions"][0]["size"] * 512 == built.verity.data_blocks * 4096
    assert (output / extension.PRODUCT.root_hash).read_text() == built.verity.parameters() + "\n"


def test_the_sbom_is_valid_and_complete(output: Path, built: Built) -> None:
    text = (output / extension.PRODUCT.sbom).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    assert built.verity.root_hash in json.dumps(document["metadata"])
    found = {component["name"]: component for component in document["components"]}
    assert {"coco-guest-agent", "python3.11-minimal", "libssl3", "cryptsetup-bin", "httptools"} <= set(found)
    assert {"nvidia-ml-py"} <= set(found)
    assert not {"aiohttp", "grpcio", "mfusepy"} & set(found)
    assert found["libssl3"]["purl"].startswith("pkg:deb/debian/libssl3@3.")
    assert found["cryptography"]["components"][0]["name"] == "openssl"
    for name, component in found.items():
        assert name == "coco-guest-agent" or len(component["hashes"][0]["content"]) == 64, name


async def test_there_is_bytecode_only_and_no_trace_of_the_build(guest: Child) -> None:
    files = (await ran(guest, "find", kata.ROOT, "-type", "f")).decode().splitlines()
    assert [path for path in files if path.endswith((".py", ".pyi", ".pth"))] == []
    assert [path for path in files if "devkit" in path or "python3.11/grpc/" in path] == []
    traces = await guest.ask("run", command=["grep", "-rlE", "coco-bundle-|/root/|/tmp/coco", kata.ROOT])
    assert traces["status"] == 1, traces
    owners = (
        await ran(guest, "find", kata.ROOT, "(", "-not", "-uid", "0", "-o", "-perm", "/022", ")")
    ).decode()
    assert owners == ""


async def test_what_a_daemon_loads_is_read_ahead_in_its_order(guest: Child) -> None:
    listed = (await ran(guest, "cat", f"{kata.ROOT}/{layout.HOME}/{readahead.LIST}")).decode().split()
    assert len(set(listed)) == len(listed)
    # Fails for a name that is not there.
    await ran(guest, "stat", "--format=%s", *(f"{kata.ROOT}/{layout.HOME}/{name}" for name in listed))
    modules = layout.MODULES.removeprefix(f"{layout.HOME}/")
    order = ("agent/cli/run", "agent/http/parser", "agent/daemon/gateway")
    places = [listed.index(f"{modules}/{name}.pyc") for name in order]
    assert places == sorted(places)
    assert {"lib/libcrypto.so.3", f"{modules}/agent/tee/collector.pyc"} <= set(listed)


async def test_every_module_is_there(guest: Child) -> None:
    """All of ours but the development kit, and what they import, in the bundle's own interpreter."""
    code = (
        "import importlib, pkgutil, sys, agent\n"
        "names = [m.name for m in pkgutil.walk_packages(agent.__path__, 'agent.')]\n"
        "for name in names:\n"
        "    if 'serve.grpc' not in name: importlib.import_module(name)\n"
        "import pynvml, http.client, tarfile, zipfile\n"
        "print(len(names), sys.flags.isolated, *[p for p in sys.path if 'coco-agent' not in p])\n"
    )
    count, *rest = (await ran(guest, f"{kata.ROOT}/{layout.INTERPRETER}", "-IS", "-c", code)).decode().split()
    wanted = sum(1 for path in (ROOT / "agent").rglob("*.py") if "devkit" not in path.parts)
    assert int(count) >= wanted - 30  # __init__.py of a package counts once, with its folder
    assert rest == ["1"]


async def test_every_command_explains_itself(guest: Child) -> None:
    program = f"{kata.ROOT}/{layout.PROGRAMS}"
    listed = (await ran(guest, f"{program}/coco-agent", "--help")).decode()
    for command in COMMANDS:
        assert command.name in listed
        assert b"usage: coco-agent" in await ran(guest, f"{program}/coco-agent", command.name, "--help")
    for name in (AA, CDH, REST):
        assert b"coco-agent" in await ran(guest, f"{program}/{name}", "--version")


async def test_nobody_elses_libraries_or_modules_are_used(guest: Child) -> None:
    """A folder full of wrong libraries and modules, named by every variable that could lead there."""
    trap = "/run/trap"
    await ran(guest, "mkdir", trap)
    for name in ("libssl.so.3", "libcrypto.so.3", "libz.so.1", "libcryptsetup.so.12", "agent.py", "os.py"):
        await ran(guest, "cp", "/proc/self/cmdline", f"{trap}/{name}")
    lead = {"LD_LIBRARY_PATH": trap, "PYTHONPATH": trap, "PYTHONHOME": trap, "PYTHONSTARTUP": f"{trap}/os.py"}
    assert b"usage" in await ran(
        guest, f"{kata.ROOT}/{layout.PROGRAMS}/coco-agent", "serve", "--help", **lead
    )
    assert b"cryptsetup 2" in await ran(guest, f"{kata.ROOT}/{layout.CRYPTSETUP}", "--version", **lead)
    loaded = (
        (await ran(guest, f"{kata.ROOT}/{layout.INTERPRETER}", "-IS", "-c", MAPPED, **lead)).decode().split()
    )
    assert loaded
    base = [path for path in loaded if not path.startswith(kata.ROOT)]
    assert {path.rsplit("/", 1)[1] for path in base} <= elf.GLIBC


MAPPED = (
    "import ssl, ctypes, agent.cli.run, agent.kbs.jwe\n"
    "print(*{line.split()[-1] for line in open('/proc/self/maps') if '.so' in line})"
)


def test_a_library_of_the_base_image_would_be_named(output: Path, tmp_path: Path) -> None:
    """What the build asks of its own tree, asked of one that lacks something."""
    private = tmp_path / "lib"
    private.mkdir()
    shutil.copy(tools.find("sfdisk"), tmp_path)
    assert "sfdisk needs libfdisk.so.1" in elf.unresolved(tmp_path, private)
    for name in elf.needed(tmp_path / "sfdisk"):
        (private / name).touch()
    assert elf.unresolved(tmp_path, private) == []


async def test_kata_agents_launch_gives_a_secret(guest: Child) -> None:
    """The manifest's processes in order; evidence is collected by a process of the bundle."""
    for process in (AA, CDH, REST):
        await guest.ask("start", process=process)
    answer: dict[str, Any] = await guest.ask("get", path=f"/cdh/resource/{RESOURCE}")
    assert (answer["status"], base64.b64decode(answer["output"])) == (0, VALUE)
    memory = await guest.ask("memory", process=AA)
    assert memory["rss_mb"] <= RSS_MAX_MB
    for process in (REST, CDH, AA):
        assert (await guest.ask("stop", process=process))["status"] == 0


async def test_cryptsetup_makes_and_opens_a_volume(guest: Child) -> None:
    """Found as the data hub finds it, by the manifest's PATH."""
    path = kata.plan(MANIFEST)[1].environment["PATH"]
    script = (
        "set -e; cd /run; head -c 20M /dev/zero > disk; echo passphrase > key; command -v cryptsetup\n"
        "cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 disk key\n"
        "cryptsetup open --test-passphrase --key-file key disk"
    )
    assert (
        await ran(guest, "sh", "-c", script, PATH=path)
    ).decode().strip() == f"{kata.ROOT}/{layout.CRYPTSETUP}"


async def test_the_attesters_socket_is_there_in_time(guest: Child) -> None:
    await guest.ask("start", process=AA)
    await guest.ask("stop", process=AA)
    starts = []
    for _ in range(5):
        starts.append(await guest.ask("start", process=AA))
        await guest.ask("stop", process=AA)
    bare = [
        float(await ran(guest, sys.executable, "-c", BARE, f"{kata.ROOT}/{layout.INTERPRETER}"))
        for _ in range(5)
    ]
    wall = min(start["seconds"] for start in starts)
    times = min(start["cpu_seconds"] for start in starts) / min(bare)
    assert wall <= AA_SOCKET_MAX_S or times <= AA_SOCKET_MAX_BARE, f"{wall:.2f} s, {times:.0f} bare starts"


BARE = (
    "import resource, subprocess, sys\n"
    "subprocess.run([sys.argv[1], '-IS', '-c', 'pass'], check=True)\n"
    "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
    "print(used.ru_utime + used.ru_stime)"
)


def test_a_finished_build_is_not_made_again(built: Built, output: Path) -> None:
    assert extension.PRODUCT.current(output) == built
    summary = msgspec.json.decode((output / extension.PRODUCT.summary).read_bytes())
    assert summary["erofs_bytes"] == built.erofs_bytes
