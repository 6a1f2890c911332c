"""Compile a tree to sourceless bytecode; run by the bundle's interpreter (``-IS``) with a folder and a level.

One process, one order and a fixed hash seed: the same sources give the same bytes. ``co_filename`` is relative,
so no build path gets into the image, and nothing depends on where the tree will be mounted.
"""

from __future__ import annotations

import py_compile
import sys
from pathlib import Path


def main(root: Path, level: int) -> None:
    """Replace each ``x.py`` by ``x.pyc`` beside it."""
    for source in sorted(root.rglob("*.py")):
        py_compile.compile(
            str(source),
            cfile=str(source.with_suffix(".pyc")),
            dfile=str(source.relative_to(root)),
            doraise=True,
            optimize=level,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        source.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
