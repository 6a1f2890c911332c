"""The bundle: interpreter, standard library, packages and ``agent`` as one relocatable tree.

Nothing in it needs a library of the base image but glibc's, and nothing of the base image's Python, shell or
environment has a say in it.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rootfs import debian, elf, files, layout, readahead, stdlib, wheels
from rootfs.errors import BuildError
from rootfs.tools import run
from rootfs.wheels import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rootfs.debian import Package
    from rootfs.wheels import Wheel

CACHE: Final = ROOT / "build" / "cache"


def silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to build.

    Attributes:
        into: folder that becomes the root; must not exist or be empty.
        prefix: where that root will be in the guest; "" for a root file system.
        cache: downloaded packages.
        cryptsetup: whether to add ``usr/sbin/cryptsetup``.
        dev: the development variant, which gives sample evidence where there is no TEE.
        say: told each step.
    """

    into: Path
    prefix: str = layout.EXTENSION_ROOT
    cache: Path = CACHE
    cryptsetup: bool = True
    dev: bool = False
    say: Callable[[str], None] = field(default=silent)


@dataclass(frozen=True, slots=True)
class Contents:
    """What the bundle was made of.

    Attributes:
        debian: packages of which files are in it.
        python: wheels of which files are in it.
        openssl: version of the one inside cryptography's wheel.
    """

    debian: tuple[Package, ...]
    python: tuple[Wheel, ...]
    openssl: str


def build(options: Options) -> Contents:
    """Build the tree.

    Raises:
        BuildError: something is missing or does not fit.
    """
    into = options.into
    if into.exists() and any(into.iterdir()):
        raise BuildError(f"{into} is not empty. Next: --replace, or name another folder")
    with _work(into) as work:
        packages = debian.candidates(_debian_names(options))
        options.say(f"{len(packages)} Debian packages")
        stage = work / "stage"
        debian.unpack(debian.fetch(packages, options.cache / "debian"), stage)
        wanted = wheels.requirements()
        options.say(f"{len(wanted)} Python packages")
        interpreter = _stage_interpreter(stage)
        site = work / "site"
        installed = wheels.install(interpreter, wanted, site)
        options.say("choosing what the guest needs")
        _modules(stage, site, into / layout.MODULES, dev=options.dev)
        _programs(stage, options)
        _licenses(stage, site, into / layout.LICENSES)
        options.say("compiling to bytecode")
        compiler = Path(__file__).with_name("compile_tree.py")
        run([interpreter, "-IS", "-X", "no_debug_ranges", compiler, into / layout.MODULES])
        readahead.write(into)
        files.settle(into)
        options.say("checking that every library is there")
        faults = elf.unresolved(into, into / layout.LIBRARIES)
        if faults:
            raise BuildError("the base image would have to give libraries: " + "; ".join(faults))
        return Contents(tuple(packages), tuple(installed), _openssl(into))


@contextmanager
def _work(into: Path) -> Iterator[Path]:
    into.parent.mkdir(parents=True, exist_ok=True)
    into.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="coco-bundle-") as name:
            yield Path(name).resolve()
    except BaseException:
        shutil.rmtree(into)  # it was empty; half a bundle is of no use
        raise


def _debian_names(options: Options) -> Iterable[str]:
    return (*debian.INTERPRETER, *debian.LIBRARIES, *(debian.CRYPTSETUP if options.cryptsetup else ()))


def _stage_interpreter(stage: Path) -> Path:
    """The interpreter as Debian ships it, made to find its libraries in the stage."""
    program = stage / "usr/bin" / debian.PYTHON
    folders = sorted(
        {path.parent for path in elf.libraries(stage).values() if "python" not in str(path.parent)}
    )
    elf.set_rpath(program, ":".join(str(folder) for folder in folders))
    return program


def _modules(stage: Path, site: Path, target: Path, *, dev: bool) -> None:
    """Standard library, packages and ``agent``, side by side, in source form."""
    files.copy_tree(stage / "usr/lib" / debian.PYTHON, target, stdlib.wanted_of_standard)
    for name, text in stdlib.SUBSTITUTES.items():
        files.write(target / name, text)
    taken = {path.name for path in target.iterdir()}
    clash = {path.name for path in site.iterdir()} & taken
    if clash:
        raise BuildError(f"packages and standard library both have {', '.join(sorted(clash))}")
    files.copy_tree(site, target, stdlib.wanted_of_packages)
    wanted = stdlib.wanted_of_agent_dev if dev else stdlib.wanted_of_agent
    files.copy_tree(ROOT / "agent", target / "agent", wanted)
    if dev:
        files.write(target / "agent/variant.py", variant(ROOT))
    for path in elf.elves(target):
        elf.strip(path)
        elf.drop_unused(path)


def _programs(stage: Path, options: Options) -> None:
    """Interpreter, cryptsetup, launchers, and the libraries they load."""
    into = options.into
    programs = {layout.INTERPRETER: (f"usr/bin/{debian.PYTHON}", "$ORIGIN/../lib")}
    if options.cryptsetup:
        programs[layout.CRYPTSETUP] = ("sbin/cryptsetup", "$ORIGIN/../lib/coco-agent/lib")
    for name, (source, rpath) in programs.items():
        files.copy(stage / source, into / name)  # stripped by Debian, as its libraries
        elf.set_rpath(into / name, rpath)
    start = [*elf.elves(into / layout.MODULES), *(into / name for name in programs)]
    for name, path in elf.closure(start, elf.libraries(stage)).items():
        files.copy(path, into / layout.LIBRARIES / name)
    for name, text in launchers(options.prefix).items():
        files.write(into / layout.PROGRAMS / name, text, executable=True)


def _openssl(into: Path) -> str:
    """A first proof that the bundle runs, and what only the wheel knows about itself."""
    code = "from cryptography.hazmat.bindings._rust import openssl as o; print(o.openssl_version_text())"
    words = run([into / layout.INTERPRETER, "-IS", "-c", code]).split()
    if words[:1] != ["OpenSSL"]:
        raise BuildError(f"the bundle's cryptography says of its OpenSSL: {' '.join(words)!r}")
    return words[1]


def launchers(prefix: str, root: Path = ROOT) -> dict[str, str]:
    """Text of each program of ``[project.scripts]``.

    ``-I``: neither the environment nor the folder it is started from adds modules. ``-S``: there is no
    site-packages to look for.
    """
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    made = {}
    for name, place in sorted(scripts.items()):
        module, _, function = place.partition(":")
        head = f"#!{prefix.rstrip('/')}/{layout.INTERPRETER} -IS\n"
        made[name] = f"{head}from {module} import {function}\n\nraise SystemExit({function}())\n"
    return made


def variant(root: Path) -> str:
    """``agent/variant.py`` of a development image.

    Raises:
        BuildError: the checkout's has no such line to change.
    """
    text = (root / "agent/variant.py").read_text()
    before, line, after = text.partition("DEVELOPMENT: Final[bool] = False\n")
    if not line:
        raise BuildError("agent/variant.py says nothing of DEVELOPMENT")
    return f"{before}DEVELOPMENT: Final[bool] = True\n{after}"


def _licenses(stage: Path, site: Path, target: Path) -> None:
    """Their conditions ask for it: copyright notices travel with binaries."""
    for path in sorted(stage.glob("usr/share/doc/*/copyright")):
        files.copy(path, target / "debian" / path.parent.name)
    for path in sorted(site.glob("*.dist-info/**/*")):
        if path.is_file() and path.name.upper().startswith(("LICEN", "COPYING", "NOTICE", "AUTHORS")):
            package = path.relative_to(site).parts[0].removesuffix(".dist-info")
            files.copy(path, target / "python" / package / path.name)
    files.copy(ROOT / "LICENSE", target / "coco-agent")


def distribution() -> str:
    """Whose packages these are, as package URLs say it: ``debian-12``."""
    release = platform.freedesktop_os_release()
    return f"{release['ID']}-{release.get('VERSION_ID', 'unstable')}"


def remove(folder: Path) -> None:
    """Remove an earlier bundle, and nothing else.

    Raises:
        BuildError: the folder holds something that is no bundle.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / layout.INTERPRETER).exists():
        raise BuildError(f"{folder} holds something else than a bundle. Next: name another folder")
    shutil.rmtree(folder)
