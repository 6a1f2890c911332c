"""What the bundle's bytecode leaves out changes nothing a program can see."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from typing import TYPE_CHECKING

from rootfs import compile_tree
from rootfs.wheels import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = '''\
"""A module."""
from __future__ import annotations
from dataclasses import dataclass

@dataclass(frozen=True)
class Point:
    """A point."""
    x: int
    y: int = 2

def only_words(value: str) -> None:
    """Says something and does nothing."""

def checked(value: int) -> int:
    """Asserts."""
    assert value > 0
    return value

async def later(value: int) -> int:
    return value
'''


def namespace(source: str) -> dict[str, object]:
    module = types.ModuleType("lean")
    sys.modules["lean"] = module  # dataclasses look there
    exec(compile(compile_tree.undocumented(source.encode()), "lean.py", "exec"), vars(module))  # noqa: S102
    return vars(module)


def evaluated(*expressions: str) -> list[object]:
    names = namespace(SOURCE)
    return [eval(expression, names) for expression in expressions]  # noqa: S307


def test_words_and_annotations_of_functions_are_gone() -> None:
    assert evaluated("__doc__", "checked.__doc__", "only_words('x')") == [None, None, None]
    assert evaluated("checked.__annotations__", "later.__annotations__") == [{}, {}]


def test_classes_keep_what_they_are_made_from() -> None:
    assert evaluated("Point(1) == Point(1, 2)", "Point.__annotations__") == [True, {"x": "int", "y": "int"}]
    assert evaluated("Point.__doc__") == ["."]  # else dataclass makes one from the signature, at every start


def test_asserts_stay() -> None:
    outcome = namespace(SOURCE + "\ntry:\n    checked(0)\nexcept AssertionError:\n    caught = True\n")
    assert outcome["caught"] is True


def test_a_tree_becomes_bytecode_that_runs_without_its_source(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(SOURCE)
    again = tmp_path / "again"
    again.mkdir()
    (again / "module.py").write_text(SOURCE)
    script = ROOT / "rootfs" / "compile_tree.py"
    subprocess.run([sys.executable, "-IS", str(script), str(tmp_path)], check=True)
    assert [path.name for path in tmp_path.rglob("*.py")] == []
    compiled = (tmp_path / "package" / "__init__.pyc").read_bytes()
    assert compiled[:4] == importlib.util.MAGIC_NUMBER
    assert compiled[4:8] == b"\x01\0\0\0"  # PEP 552: hash-based, not checked
    assert str(tmp_path).encode() not in compiled
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import package; print(package.Point(3).x)"
    done = subprocess.run([sys.executable, "-IS", "-c", code], check=True, capture_output=True)
    assert done.stdout == b"3\n"
