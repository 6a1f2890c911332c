"""``make scale``: play the storms; rewrite docs/scale.json, the tables of docs/scale.md, and the pictures."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.herd import figures, plot, report

DOCS: Final = Path(__file__).resolve().parents[3] / "docs"


def load() -> figures.Record:
    """docs/scale.json."""
    return msgspec.json.decode((DOCS / "scale.json").read_bytes(), type=figures.Record)


def dump(record: figures.Record) -> str:
    """As it is written: the figures of one policy on a line, so that a change can be read."""
    return nested(msgspec.to_builtins(record), 2) + "\n"


def nested(value: object, depth: int) -> str:
    """JSON with line breaks down to ``depth``."""
    if not isinstance(value, dict) or depth < 0:
        return msgspec.json.encode(value).decode()
    members = (f'"{key}": {nested(inner, depth - 1)}' for key, inner in value.items())
    return "{\n" + ",\n".join(members) + "\n}"


def pictures(record: figures.Record) -> dict[Path, str]:
    """Where each picture goes, and the picture."""
    return {
        DOCS / "img" / f"herd-{figures.STORMS[name].capacity:g}.svg": plot.draw(figures.STORMS[name], courses)
        for name, courses in record.courses.items()
    }


def main() -> int:
    """Play and write."""
    began = time.process_time()
    record = figures.record(lambda name: print(f"{time.process_time() - began:5.1f} s  {name}", flush=True))
    (DOCS / "scale.json").write_text(dump(record))
    page = DOCS / "scale.md"
    page.write_text(report.render(page.read_text(), record))
    for path, picture in pictures(record).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
