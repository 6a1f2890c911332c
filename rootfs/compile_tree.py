"""Compile a tree to sourceless bytecode; run by the bundle's interpreter (``-IS -X no_debug_ranges``).

One process, one order and a fixed hash seed: the same sources give the same bytes. ``co_filename`` is
relative, so no build path gets into the image, and nothing depends on where the tree will be mounted.

Left out, because nothing reads them in a guest, and they are 3 MB of memory:

* docstrings, as ``-OO`` does; but ``assert`` stays
* annotations of functions; those of classes stay, dataclasses and structs are made from them
* columns of tracebacks (the switch); they point into source text, of which there is none
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import sys
from pathlib import Path
from typing import Final

_HEADER: Final = importlib.util.MAGIC_NUMBER + (0b01).to_bytes(4, "little")
"""PEP 552: bytecode with the hash of its source, which is not checked."""

_NOTHING: Final = "."
"""Documentation of a class. Without any, ``dataclass`` makes one from its signature at every start."""


def main(root: Path) -> None:
    """Replace each ``x.py`` by ``x.pyc`` beside it."""
    for source in sorted(root.rglob("*.py")):
        text = source.read_bytes()
        code = compile(undocumented(text), str(source.relative_to(root)), "exec", dont_inherit=True)
        digest = importlib.util.source_hash(text)
        source.with_suffix(".pyc").write_bytes(_HEADER + digest + marshal.dumps(code))
        source.unlink()


def undocumented(source: bytes) -> ast.Module:
    """The syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _strip(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return tree


def _strip(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
        return
    if not isinstance(first.value.value, str):
        return
    if isinstance(node, ast.ClassDef):
        first.value.value = _NOTHING
    elif len(node.body) > 1:
        del node.body[0]
    else:
        first.value.value = 0  # a body cannot be empty


if __name__ == "__main__":
    main(Path(sys.argv[1]))
