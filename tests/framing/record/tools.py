"""What is fetched and built for a recording, and versions of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import venv
from functools import cache
from pathlib import Path
from typing import Final

_PROGRAMS: Final = Path(__file__).with_name("programs")
_PYTHON: Final = (
    *("aiohttp", "cheroot", "gunicorn", "h11", "httplib2", "httptools", "httpx", "hypercorn", "niquests"),
    *("pycurl", "requests", "tornado", "urllib3", "uvicorn", "waitress", "werkzeug"),
)
_NODE: Final = ("axios", "express", "fastify", "got", "node-fetch", "undici")


class Tools:
    """A folder with all that a recording needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.python = self.folder / "python/bin/python"
        self.modules = self.folder / "node_modules"

    def prepare(self) -> None:
        """Fetch from the registries by name, and build. Again only what is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.python.exists():
            venv.create(self.folder / "python", with_pip=True)
            self._run(str(self.python), "-m", "pip", "install", "-q", *_PYTHON)
        if not self.modules.exists():
            self._run("npm", "install", "--silent", "--prefix", str(self.folder), *_NODE)
        for name in ("client", "server"):
            self._run("go", "build", "-o", str(self.folder / f"{name}-go"), str(_PROGRAMS / f"{name}.go"))
            self._run("javac", "-d", str(self.folder), str(_PROGRAMS / f"{name.title()}.java"))
        manifest = self.folder / "crate"
        shutil.copytree(_PROGRAMS, manifest, dirs_exist_ok=True)
        target = str(self.folder / "rust")
        self._run(
            "cargo", "build", "-q", "--target-dir", target, "--manifest-path", str(manifest / "Cargo.toml")
        )

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, cwd=self.folder)

    def environment(self) -> dict[str, str]:
        """No proxy and no settings of the person who records."""
        return {
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "NODE_MODULES": str(self.modules),
        }

    def version(self, name: str, command: str) -> str:
        """A program with the first number that it says of itself."""
        return f"{name} {_number(command)}".strip()

    def package(self, name: str) -> str:
        """A package of Python, or a module of its standard library."""
        got = subprocess.run(
            [self.python, "-c", f"import importlib.metadata as m; print(m.version({name!r}))"],
            capture_output=True,
            text=True,
            check=False,
        )
        return (
            f"{name} {got.stdout.strip()}"
            if got.returncode == 0
            else self.version(f"Python {name}", "python3 -V")
        )

    def module(self, name: str) -> str:
        """A package of Node, or a part of it."""
        path = self.modules / name / "package.json"
        return (
            f"{name} {json.loads(path.read_text())['version']}"
            if path.exists()
            else self.version(f"Node {name}", "node -v")
        )

    def crate(self, name: str) -> str:
        """A package of Rust."""
        lock = (self.folder / "crate/Cargo.lock").read_text()
        found = re.search(rf'name = "{name}"\nversion = "([^"]+)"', lock)
        return f"{name} {found[1]}" if found else name


@cache
def _number(command: str) -> str:
    said = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.]*", said.stdout + said.stderr)
    return found[0] if found else ""
