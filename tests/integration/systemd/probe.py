"""Runs in place of the daemon, inside its unit's sandbox: tries what must work and what must not.

Prints one JSON object: what was tried, and how it ended (``ok`` or the name of the errno).
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cryptography.hazmat.bindings._rust  # noqa: F401  # cffi and OpenSSL come up
import google.protobuf.descriptor_pool  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable

FOUND: dict[str, str] = {}


def attempt(name: str, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError as error:
        FOUND[name] = errno.errorcode.get(error.errno or 0, str(error))
    except subprocess.CalledProcessError as error:
        FOUND[name] = f"status {error.returncode}"
    else:
        FOUND[name] = "ok"


def libc(function: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library[function](*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write(path: str) -> None:
    Path(path).write_text("x")
    Path(path).unlink()


def open_device(path: str) -> None:
    os.close(os.open(path, os.O_RDWR))


def open_socket(family: str) -> None:
    socket.socket(getattr(socket, family), socket.SOCK_DGRAM).close()


def callback() -> None:
    """libffi makes code at run time, which must not need memory that is writable and executable."""
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    ctypes.CDLL(None).qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
    assert list(numbers) == [1, 2, 3]


def fork() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert not status


# What the agent does.
attempt("a child program", lambda: subprocess.run([sys.executable, "-c", ""], check=True))
attempt("fork", fork)
attempt("a callback from C", callback)
attempt("no core dumps", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
attempt("its folder", lambda: write("/run/confidential-containers/probe"))
attempt("the event log's folder", lambda: write("/run/attestation-agent/probe"))
attempt("a private /tmp", lambda: write("/tmp/probe"))  # noqa: S108
attempt("the kernel command line", lambda: Path("/proc/cmdline").read_text())
attempt("its configuration", lambda: Path("/etc/coco-agent/agent.toml").read_text())
attempt("names", lambda: socket.getaddrinfo("localhost", 80))
attempt("a TEE's device", lambda: open_device("/dev/sev-guest"))
for family in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"):
    attempt(family, partial(open_socket, family))

# What it must not be able to do.
attempt("another device", lambda: open_device("/dev/coco-other"))
attempt("making a device", lambda: os.mknod("/run/confidential-containers/node", 0o20600, os.makedev(1, 3)))
attempt("writing to /etc", lambda: write("/etc/probe"))
attempt("writing to /usr", lambda: write("/usr/local/bin/probe"))
attempt("writing to /run", lambda: write("/run/probe"))
attempt("writing to /sys", lambda: write("/sys/kernel/probe"))
attempt("a home folder", lambda: list(Path("/root").iterdir()))
attempt("mounting", lambda: libc("mount", b"none", b"/tmp", b"tmpfs", 0, None))
attempt("a namespace", lambda: libc("unshare", 0x10000000))
attempt("another user", lambda: os.setuid(1000))
attempt("another owner", lambda: os.chown("/run/confidential-containers", 1, 1))
attempt("raw packets", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
attempt("writable code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC).close())
attempt("tracing", lambda: libc("ptrace", 16, 1, 0, 0))
attempt("the clock", lambda: libc("settimeofday", ctypes.create_string_buffer(16), None))
attempt("the kernel's log", lambda: Path("/proc/kmsg").read_bytes())
attempt("a set-user-ID program", lambda: Path("/run/confidential-containers").chmod(0o4755))

status = dict(
    line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line
)
FOUND["capabilities"] = status["CapEff"] + status["CapBnd"]
FOUND["no new privileges"] = status["NoNewPrivs"]
Path(sys.argv[1]).write_text(json.dumps(FOUND))
