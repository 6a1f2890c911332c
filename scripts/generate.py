"""Rebuild the files that are generated from others, or check that they are current.

python scripts/generate.py            rewrite
python scripts/generate.py --check    print what is stale; exit 1 if anything is
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from agent.cli import explain
from agent.config import reference as configuration

ROOT = Path(__file__).resolve().parent.parent


def protobuf(into: Path) -> None:
    """Write ``*_pb2.py`` and ``*_pb2.pyi`` of protos/*.proto into a folder."""
    binaries = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={ROOT / 'protos'}",
            f"--python_out={into}",
            f"--plugin=protoc-gen-mypy={binaries / 'protoc-gen-mypy'}",
            f"--mypy_out=quiet:{into}",
            *sorted(path.name for path in (ROOT / "protos").glob("*.proto")),
        ],
        check=True,
        cwd=ROOT,
    )


def build() -> dict[Path, bytes]:
    """Every generated file and the content it should have."""
    wanted: dict[Path, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        protobuf(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            wanted[ROOT / "agent" / "protos" / path.name] = path.read_bytes()
    wanted[ROOT / "docs" / "errors.md"] = explain.reference().encode()
    wanted[ROOT / "docs" / "configuration.md"] = configuration.render().encode()
    return wanted


def main() -> int:
    """Rewrite or check."""
    wanted = build()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_bytes() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"stale: {path.relative_to(ROOT)} (run: make generate)")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted[path])
    print(f"{len(stale)} files rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main())
