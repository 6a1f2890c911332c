"""Arrows point down: a room imports rooms below it, never above (docs/adr/0003)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "agent"

HEIGHT = {
    "cli": 90,
    "devkit": 80,
    "daemon": 70,
    "doctor": 65,
    "serve": 60,
    "attester": 50,
    "hub": 50,
    "kbs": 40,
    "tee": 30,
    "http": 20,
    "observe": 20,
    "config": 15,
    "protos": 10,
    "hardening": 5,
    "handover": 5,
    "readahead": 5,
    "flight": 5,
    "files": 5,
    "roles": 4,
    "clock": 3,
    "secret": 2,
    "errors": 1,
    "variant": 0,
    "": 0,  # the package itself: its version
}
# The sample attester is loaded only when the configuration allows it, and is missing in the guest image.
ALLOWED = {("tee", "devkit"), ("cli", "devkit")}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "agent"}


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "protos" not in path.parts)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    own = "" if own == "__init__" else own
    for module in imports(path):
        other = room(module)
        if other not in HEIGHT:  # a name of the package itself, such as __version__
            assert module.startswith("agent.__"), f"{module} is in no room"
            continue
        if other != own and (own, other) not in ALLOWED:
            assert HEIGHT[other] < HEIGHT[own], f"{path}: {own} imports {module}, which is not below it"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_aiohttp_is_the_development_kits_alone(path: Path) -> None:
    if path != PACKAGE / "devkit" / "web.py":
        tree = ast.parse(path.read_text())
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        names += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
        assert not [name for name in names if name.split(".")[0] in {"aiohttp", "httpx", "yarl"}]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_that_outgrows_its_room_wants_to_be_a_package(path: Path) -> None:
    # The taxonomy and the limits are one closed table each.
    limit = 700 if path.name in {"errors.py", "limits.py"} else 400
    assert len(path.read_text().splitlines()) <= limit
