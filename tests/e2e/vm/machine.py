"""The virtual machine: QEMU, with KVM where that works and a processor in software elsewhere."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from agent.errors import AgentError, ErrorCode
from tests.e2e.vm import wire
from tests.e2e.vm.wire import Answer, Ask, Call, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

BOOT_SECONDS: Final = 180.0
"""A limit, not a wish: 15 s on an idle machine with two processors."""

QEMU: Final = "qemu-system-x86_64"
_CPU: Final = "max,-erms,-fsrm"
"""Without the promise that string instructions are fast: in software each byte is a round of its own."""

_PROBE_SECONDS: Final = 10.0


class GuestError(Exception):
    """The guest could not do what it was told; its traceback."""


class Machine:
    """One booted guest.

    Args:
        folder: for sockets and the console's log.
        kernel: bootable kernel.
        initramfs: see ``image.build``.
        hardware: answers the drivers' questions, in a thread of its own.
        devices: further arguments of QEMU.
        append: further arguments of the kernel.

    Attributes:
        accelerator: what runs the processor, in QEMU's words.
        greeting: what the guest said when it was there.
        ended: the machine went off by itself; known once it has been left.
        console: what the kernel and the guest's programs printed, so far.
    """

    def __init__(
        self,
        folder: Path,
        kernel: Path,
        initramfs: Path,
        hardware: Callable[[Ask], Answer],
        *,
        devices: Sequence[str] = (),
        append: str = "",
    ) -> None:
        self._folder = folder
        self._boot = [str(kernel), str(initramfs), f"console=ttyS0 panic=-1 quiet {append}"]
        self._devices = devices
        self._hardware = hardware
        self._ports: list[socket.socket] = []
        self._provider = ""
        self.accelerator = accelerator(kernel)
        self.greeting = ""
        self.ended = False

    @property
    def console(self) -> str:
        return (self._folder / "console.log").read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Self:
        listening = [self._listen(name) for name in ("platform", "test")]
        self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL)
        try:
            for one in listening:
                with one:
                    one.settimeout(BOOT_SECONDS)
                    self._ports.append(one.accept()[0])
            self._test = self._ports[1].makefile("rwb")
            self._platform = self._ports[0].makefile("rwb")
            self._thread = threading.Thread(target=self._serve)
            self._thread.start()
            self._ports[1].settimeout(BOOT_SECONDS)
            self.greeting = self._receive().detail
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            # A guest that is not there any more has been reported by a test.
            with suppress(OSError, subprocess.TimeoutExpired):
                wire.send(self._test, Call("off"))
                self._process.wait(30)
        finally:
            self._stop()

    def _stop(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self.ended = self._process.poll() is not None
        self._process.kill()
        self._process.wait()
        for port in self._ports:
            port.close()
        if hasattr(self, "_thread"):
            self._thread.join()
            for stream in (self._test, self._platform):
                with suppress(OSError):  # what it still holds has nowhere to go
                    stream.close()

    def _listen(self, name: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self._folder / name))
        listening.listen()
        return listening

    def _command(self) -> list[str]:
        kernel, initramfs, append = self._boot
        command = [QEMU, "-M", "pc", "-accel", self.accelerator, "-smp", "2", "-cpu", _CPU, "-m", "1024"]
        command += ["-nodefaults", "-display", "none", "-no-reboot", "-device", "virtio-serial-pci"]
        command += ["-serial", f"file:{self._folder / 'console.log'}"]
        for number, name in enumerate(("platform", "test"), start=1):
            command += ["-chardev", f"socket,id={name},path={self._folder / name}"]
            command += ["-device", f"virtserialport,chardev={name},name={name},nr={number}"]
        command += ["-kernel", kernel, "-initrd", initramfs, "-append", append]
        return [*command, *self._devices]

    def _serve(self) -> None:
        try:
            while True:
                wire.send(self._platform, self._hardware(wire.receive(self._platform, Ask)))
        except (EOFError, OSError):
            return

    def call(
        self,
        op: str,
        name: str = "",
        data: bytes = b"",
        *,
        number: int = 0,
        seconds: float = 60.0,
        settings: Mapping[str, str | int | bool] | None = None,
    ) -> Result:
        """Have the guest do something (``guest/main.py``).

        Raises:
            AgentError: the agent's own, as it was raised there.
            GuestError: anything else.
        """
        self._ports[1].settimeout(seconds + BOOT_SECONDS)
        wire.send(self._test, Call(op, name, dict(settings or {}), data, number, seconds))
        result = self._receive()
        if result.code == "crash":
            raise GuestError(result.detail)
        if result.code:
            raise AgentError(ErrorCode[result.code], result.detail)
        return result

    def _receive(self) -> Result:
        try:
            return wire.receive(self._test, Result)
        except (EOFError, OSError) as error:
            shown = self.console[-4000:]
            raise GuestError(f"{type(error).__name__}: no answer; the console ends with:\n{shown}") from None

    def become(self, provider: str, floor: int = 0) -> None:
        """Make the guest one of another TEE's (``guest/firmware.py``, ``SERVICES``)."""
        wanted = f"{provider} {floor}"
        if wanted != self._provider:
            self._provider = ""
            self.call("provider", provider, number=floor)
            self._provider = wanted


@functools.cache
def accelerator(kernel: Path) -> str:
    """What QEMU runs guests with: KVM if a kernel gets through its own start with it.

    There are machines with a /dev/kvm on which guests never run. ``VM_ACCELERATOR=tcg`` does not even try.
    """
    software = "tcg,thread=multi"
    if os.environ.get("VM_ACCELERATOR") == "tcg" or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return software
    command = [
        QEMU,
        "-M",
        "pc",
        "-accel",
        "kvm",
        "-cpu",
        "max",
        "-m",
        "256",
        "-nodefaults",
        "-display",
        "none",
    ]
    # Without a root the kernel panics, and that is the end of the machine.
    command += ["-no-reboot", "-kernel", str(kernel), "-append", "panic=-1"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return "kvm" if process.wait(_PROBE_SECONDS) == 0 else software
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return software


def missing() -> str | None:
    """What the machine needs and is not here; None when all is."""
    if platform.machine() != "x86_64":
        return "the machine is an x86_64, and so must this one be: it shares Python and its libraries"
    for program in (QEMU, "busybox", "make", "gcc", "ldd", "swtpm", "tpm2_createprimary"):
        if not shutil.which(program):
            return f"no {program}"
    return None
