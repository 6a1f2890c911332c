"""What of the standard library and of the packages stays out of the bundle, and why.

``tests/integration/test_image_build.py`` imports every module of ``agent`` in the bundle and runs every
command, so what is missed shows there.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import PurePath

STANDARD: Final = {
    "a windowing system or a terminal's line editor": (
        "tkinter turtle curses _curses _curses_panel readline rlcompleter pty tty"
    ),
    "for whoever develops": (
        "unittest doctest lib2to3 pdb bdb profile cProfile _lsprof pstats trace pydoc pydoc_data code "
        "codeop cmd tabnanny pyclbr pickletools symtable this antigravity modulefinder __hello__ "
        "__phello__ test _testbuffer _testcapi _testclinic _testimportmultiple _testinternalcapi "
        "_testmultiphase _ctypes_test _xxtestfuzz xxlimited xxlimited_35"
    ),
    "builds and installs software": (
        "ensurepip venv distutils zipapp py_compile compileall _distutils_system_mod _bootsubprocess "
        "_sysconfigdata__linux_x86_64-linux-gnu _sysconfigdata__x86_64-linux-gnu sysconfig imp"
    ),
    "protocols nothing here speaks": (
        "ftplib imaplib nntplib poplib smtplib smtpd telnetlib xmlrpc cgi cgitb asynchat asyncore "
        "webbrowser mailbox mailcap xdrlib xml _markupbase nis"
    ),
    "formats nothing here reads": (
        "aifc audioop bz2 _bz2 lzma _lzma chunk colorsys imghdr ossaudiodev plistlib sndhdr sunau uu wave "
        "configparser zoneinfo _zoneinfo fileinput optparse pipes"
    ),
    "databases": "sqlite3 _sqlite3 dbm _dbm shelve",
    "other ways to run processes": (
        "multiprocessing _multiprocessing _posixshmem _xxsubinterpreters sched crypt _crypt"
    ),
    "what the C modules replace": "_pyio _pydecimal _py_abc _aix_support _osx_support",
    "character sets of other systems": (
        "_codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _multibytecodec"
    ),
    "a system library's way to make an identifier; Python has its own": "_uuid",
    "Debian's hook for crash reports": "sitecustomize",
}
"""Top-level modules, by reason."""

ENCODINGS: Final = (
    "__init__ aliases ascii base64_codec charmap cp437 hex_codec idna latin_1 punycode raw_unicode_escape "
    "unicode_escape utf_16 utf_16_be utf_16_le utf_8 utf_8_sig"
)
"""Those that stay; cp437 is for names in zip files."""

SUBSTITUTES: Final = {
    "html/entities.py": "html5 = name2codepoint = codepoint2name = entitydefs = {}\n",
    "http/server.py": "class BaseHTTPRequestHandler: pass\n",
    "socketserver.py": "class ThreadingMixIn: pass\n",
    "wsgiref/simple_server.py": "class WSGIRequestHandler: pass\nclass WSGIServer: pass\nmake_server = 0\n",
}
"""Modules of which only the names are needed: 0.4 MB of memory for ``html.unescape``, which nothing calls,
and 0.3 MB for the web servers of prometheus_client, which nothing starts."""

PACKAGES: Final = {
    "for type checkers and compilers": "*.pyi *.pyx *.pxd *.c *.h *.cpp py.typed *.hash",
    "parsers of C, which only builds use; the compiled _cffi_backend is a module of its own": (
        "cffi/* pycparser/*"
    ),
    "a compiled TOML parser, 0.7 MB and 0.3 MB of memory; the same in Python reads our files in 0.1 ms": (
        "tomli/*.so *__mypyc*.so"
    ),
    "for tests and benchmarks": (
        "google/protobuf/internal/*test* google/protobuf/internal/*benchmark* */tests/* */testdata/*"
    ),
    "servers and frameworks we are not": (
        "prometheus_client/twisted/* prometheus_client/django/* "
        "prometheus_client/bridge/* google/protobuf/compiler/*"
    ),
    "an example of NVIDIA's": "example.py",
    "console scripts of packages": "bin/*",
    "installers' records": "*.dist-info/*",
}
"""Patterns of paths below the packages' folder, by reason."""

_STANDARD: Final = frozenset(" ".join(STANDARD.values()).split())
_ENCODINGS: Final = frozenset(ENCODINGS.split())
_PACKAGES: Final = tuple(" ".join(PACKAGES.values()).split())


def wanted_of_standard(relative: PurePath) -> bool:
    """Whether a file of the standard library goes into the bundle (path relative to ``lib/python3.11``)."""
    first, *rest = relative.parts
    if relative.suffix not in {".py", ".so"}:
        return False
    if first == "lib-dynload":
        return relative.name.split(".")[0] not in _STANDARD
    if first == "encodings":
        return relative.stem in _ENCODINGS
    return (first if rest else relative.stem) not in _STANDARD


def wanted_of_packages(relative: PurePath) -> bool:
    """Whether a file of an installed package goes into the bundle (path relative to site-packages)."""
    path = relative.as_posix()
    return relative.suffix != ".pyc" and not any(fnmatchcase(path, pattern) for pattern in _PACKAGES)


def wanted_of_agent(relative: PurePath) -> bool:
    """Whether a file of ours goes into the bundle (path relative to ``agent/``). The devkit never does."""
    return relative.parts[0] != "devkit" and relative.suffix == ".py"


def wanted_of_agent_dev(relative: PurePath) -> bool:
    """The same for a development image: with the sample attester, and nothing else of the devkit."""
    return str(relative) in {"devkit/__init__.py", "devkit/sample.py"} or wanted_of_agent(relative)
