from __future__ import annotations

import ast
import os
import tomllib
from importlib import import_module
from pathlib import Path, PurePosixPath

import pytest

from rootfs import bundle, cli, debian, files, layout, stdlib
from rootfs.errors import BuildError
from rootfs.tools import EPOCH
from rootfs.wheels import ROOT


def test_every_program_of_the_project_has_a_launcher() -> None:
    made = bundle.launchers("/run/kata-extensions/coco")
    assert set(made) == set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
    lines = made["attestation-agent"].splitlines()
    assert lines[0] == "#!/run/kata-extensions/coco/usr/lib/coco-agent/bin/python3 -IS"
    assert len(lines[0]) < 128  # what older kernels read
    for text in made.values():
        compile(text, "launcher", "exec")


@pytest.mark.parametrize(
    ("path", "production", "development"),
    [
        ("devkit/__init__.py", False, True),
        ("devkit/sample.py", False, True),
        ("devkit/demo.py", False, False),
        ("devkit/kbs/__init__.py", False, False),
        ("tee/devkit/sample.py", True, True),
        ("variant.py", True, True),
        ("py.typed", False, False),
    ],
)
def test_a_development_image_has_the_sample_attester_and_no_more(
    path: str, *, production: bool, development: bool
) -> None:
    assert stdlib.wanted_of_agent(PurePosixPath(path)) is production
    assert stdlib.wanted_of_agent_dev(PurePosixPath(path)) is development


def test_the_variant_is_a_line_of_code_that_differs() -> None:
    here = (ROOT / "agent/variant.py").read_text()
    there = bundle.variant(ROOT)
    changed = [pair for pair in zip(here.splitlines(), there.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [("DEVELOPMENT: Final[bool] = False", "DEVELOPMENT: Final[bool] = True")]
    compile(there, "variant", "exec")


def test_a_checkout_without_that_line_is_not_built(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/variant.py").write_text("DEVELOPMENT = False\n")
    with pytest.raises(BuildError, match="says nothing of DEVELOPMENT"):
        bundle.variant(tmp_path)


@pytest.mark.parametrize("prefix", ["", "/"])
def test_a_launcher_of_a_root_file_system(prefix: str) -> None:
    assert bundle.launchers(prefix)["coco-agent"].startswith("#!/usr/lib/coco-agent/bin/python3 -IS\n")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("asyncio/__init__.py", True),
        ("asyncio/__pycache__/__init__.cpython-311.pyc", False),
        ("encodings/utf_8.py", True),
        ("encodings/cp1252.py", False),
        ("lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True),
        ("lib-dynload/_sqlite3.cpython-311-x86_64-linux-gnu.so", False),
        ("unittest/mock.py", False),
        ("uuid.py", True),
        ("sitecustomize.py", False),
        ("LICENSE.txt", False),
    ],
)
def test_what_of_the_standard_library_goes_in(path: str, wanted: bool) -> None:
    assert stdlib.wanted_of_standard(PurePosixPath(path)) is wanted


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("httptools/__init__.py", True),
        ("httptools/parser/parser.cpython-311-x86_64-linux-gnu.so", True),
        ("httptools/parser/parser.pyx", False),
        ("cryptography/hazmat/bindings/_rust/__init__.pyi", False),
        ("cffi/api.py", False),
        ("_cffi_backend.cpython-311-x86_64-linux-gnu.so", True),
        ("pynvml.py", True),
        ("bin/py.test", False),
        ("httptools-0.9.0.dist-info/METADATA", False),
    ],
)
def test_what_of_packages_goes_in(path: str, wanted: bool) -> None:
    assert stdlib.wanted_of_packages(PurePosixPath(path)) is wanted


def test_the_development_kit_stays_out() -> None:
    assert stdlib.wanted_of_agent(PurePosixPath("daemon.py"))
    assert not stdlib.wanted_of_agent(PurePosixPath("devkit/sample.py"))
    assert not stdlib.wanted_of_agent(PurePosixPath("protos/ttrpc_pb2.pyi"))


def test_modes_and_times_depend_on_nothing(tmp_path: Path) -> None:
    os.umask(0o022)
    (tmp_path / "folder").mkdir(mode=0o700)
    files.write(tmp_path / "folder" / "program", "x", executable=True)
    files.write(tmp_path / "folder" / "data", "x")
    (tmp_path / "folder" / "data").chmod(0o666)
    files.settle(tmp_path)
    found = {path.name: (path.stat().st_mode & 0o7777, path.stat().st_mtime) for path in tmp_path.rglob("*")}
    assert found == {"folder": (0o755, EPOCH), "program": (0o755, EPOCH), "data": (0o644, EPOCH)}


def test_only_a_bundle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("ten years of work")
    with pytest.raises(BuildError, match="something else than a bundle"):
        bundle.remove(tmp_path)
    assert (tmp_path / "thesis").exists()
    files.write(tmp_path / layout.INTERPRETER, "")
    bundle.remove(tmp_path)
    assert not tmp_path.exists()
    bundle.remove(tmp_path)


def test_a_folder_in_use_is_an_error_with_a_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").write_text("ten years of work")
    assert cli.main(["bundle", "--into", str(tmp_path)]) == 1
    assert "Next: --replace, or name another folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["bundle", "extension", "system", "container", "compare"])
def test_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"python -m rootfs {command}" in capsys.readouterr().out


def test_half_a_bundle_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[debian.Package]:
        files.write(tmp_path / "root" / "half", "")
        raise BuildError("no network")

    monkeypatch.setattr(debian, "candidates", broken)
    with pytest.raises(BuildError, match="no network"):
        bundle.build(bundle.Options(into=tmp_path / "root"))
    assert not (tmp_path / "root").exists()


def test_a_substitute_has_the_names_its_importers_want() -> None:
    wanted = _imported_from({_module(name) for name in stdlib.SUBSTITUTES})
    assert set(wanted) == {_module(name) for name in stdlib.SUBSTITUTES}
    for name, text in stdlib.SUBSTITUTES.items():
        names: dict[str, object] = {}
        exec(text, names)  # noqa: S102
        assert set(names) >= wanted[_module(name)], name


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def _imported_from(modules: set[str]) -> dict[str, set[str]]:
    """Names that packages of the image, and what of the standard library they load, import from modules."""
    found: dict[str, set[str]] = {}
    packages = ("prometheus_client", "httptools", "google.protobuf", "html", "http", "asyncio")
    for package in packages:
        for folder in import_module(package).__path__:
            for path in Path(folder).rglob("*.py"):
                for node in ast.walk(ast.parse(path.read_bytes())):
                    if (
                        isinstance(node, ast.ImportFrom)
                        and node.module in modules
                        and "test" not in path.name
                    ):
                        found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return found
