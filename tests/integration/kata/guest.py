"""A guest's root folder with the built programs and nothing else but glibc, and kata-agent in it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.integration.kata import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

PROJECT: Final = Path(__file__).resolve().parents[3]

_GLIBC: Final = re.compile(r"/(ld-linux|libc|libm|libdl|libpthread|librt|libresolv|libutil|libnss_\w+)[.-]")
_FOLDERS: Final = ("dev", "proc", "sys", "run", "etc")
_LINE_MAX: Final = 1 << 22
_UNSHARE: Final = (
    "unshare", "--net", "--mount", "--propagation", "private",
    "--pid", "--fork", "--kill-child", "--mount-proc",
)  # fmt: skip


def add_base(root: Path) -> None:
    """What the base image gives: glibc and a few files. No shell, no /tmp, no locale, nobody's home."""
    for name in _FOLDERS:
        (root / name).mkdir(exist_ok=True)
    for name in ("hosts", "resolv.conf"):
        (root / "etc" / name).touch()
    # What the agent does before the network is there is done after a second, not after ten.
    (root / "etc/coco-agent").mkdir()
    (root / "etc/coco-agent/agent.toml").write_text("[kbs]\nretry_for = 1\n")
    listed = subprocess.run(["ldd", sys.executable], capture_output=True, text=True, check=True).stdout
    for found in re.findall(r"(/\S+) \(0x", listed):
        if _GLIBC.search(found):
            beside = Path(found).parent
            target = root / str(beside).lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            for library in beside.iterdir():
                if _GLIBC.search(str(library)) and not (target / library.name).exists():
                    shutil.copy(library, target / library.name)


class Kata:
    """kata-agent in its guest, seen from the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def say(self, word: wire.Word, seconds: float = 90.0) -> wire.Told:
        """One word, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(word) + b"\n")
        await self._process.stdin.drain()
        line = await asyncio.wait_for(self._process.stdout.readline(), seconds)
        assert line, "kata-agent's stand-in has ended"
        return msgspec.json.decode(line, type=wire.Told)


@asynccontextmanager
async def kata(
    folder: Path,
    root: Path,
    *,
    init_data: str = "",
    resources: Mapping[str, str] | None = None,
    extension: Path | None = None,
) -> AsyncIterator[Kata]:
    """A machine that was launched with the digest of ``init_data``.

    Args:
        folder: an empty one.
        root: folder with the programs, for many guests; read-only for each.
        init_data: document that the host measured.
        resources: at the broker, besides ``default/key/1``.
        extension: file system to mount where Kata mounts its extension.
    """
    (folder / "resources.json").write_text(json.dumps(dict(resources or {})))
    if extension is not None:
        (folder / "extension.erofs").symlink_to(extension)
    (folder / "root").mkdir()
    digest = hashlib.sha256(init_data.encode()).hexdigest() if init_data else ""
    mounted = f'mount --bind "{root}" "{folder}/root" && exec "$@"'
    command = (sys.executable, "-m", "tests.integration.kata.agent", str(folder / "root"), digest)
    process = await asyncio.create_subprocess_exec(
        *_UNSHARE, "sh", "-c", mounted, "sh", *command,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_MAX,
        cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    try:
        yield Kata(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()
