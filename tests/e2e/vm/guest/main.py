"""The guest's first program: does what the test asks (``Call.op``), one thing at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.clock import Deadline, SystemClock
from agent.config.model import Attester as Settings
from agent.errors import AgentError
from agent.tee import nitro, tdx_sysfs, tsm
from agent.tee.attesters import DeviceAttester
from agent.tee.eventlog.runtime import RuntimeLog
from agent.tee.platform import detect
from tests.e2e.vm import wire
from tests.e2e.vm.guest import firmware, probe
from tests.e2e.vm.guest.ports import PLATFORM_PORT, TEST_PORT, open_port
from tests.e2e.vm.wire import Call, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REPORTS: Final = Path("/sys/kernel/config/tsm/report")


class Guest:
    """One method for each ``Call.op``."""

    swtpm: Sequence[str] = ("/usr/bin/swtpm",)

    def __init__(self, platform: wire.Port) -> None:
        self._platform = platform
        self._firmware = 0
        self._runner = asyncio.Runner()

    def provider(self, call: Call) -> Result:
        """Become another kind of machine.

        ``name`` is a key of ``firmware.SERVICES``, "" for no TEE; its first word is configfs-tsm's provider.
        ``number`` is the lowest privilege level.
        """
        if self._firmware:
            os.kill(self._firmware, signal.SIGKILL)
            os.waitpid(self._firmware, 0)
            self._firmware = 0
            with contextlib.suppress(RuntimeError):
                _run("rmmod", "coco_tsm")
        if call.name in {"azure", "others"}:
            self._start(call.name)
        elif call.name:
            provider = call.name.split()[0]
            options = [f"provider={provider}", f"privlevel_floor={call.number}"]
            options += ["registers=n"] if call.name.endswith("without registers") else []
            _run("insmod", "/modules/coco_tsm.ko", *options)
            self._start(call.name)
        return Result()

    def _start(self, provider: str) -> None:
        reading, writing = os.pipe()
        self._firmware = os.fork()
        if not self._firmware:
            firmware.run(self._platform, provider, writing)
        os.close(writing)
        if os.read(reading, 1) != b"!":
            raise RuntimeError(f"no firmware for {provider}")
        os.close(reading)

    def collect(self, call: Call) -> Result:
        """Evidence as ``name``'s module gives it."""
        module = import_module(call.name)
        return Result(data=module.collect(_settings(call), call.data, _deadline(call)))

    def attest(self, call: Call) -> Result:
        """Evidence as the agent asks for it: one at a time, in a process that can be killed."""

        async def collect() -> bytes:
            # The agent's loop never stops; what happened while this one stood still comes first.
            await asyncio.sleep(0.1)
            attester = DeviceAttester(call.name, _settings(call))
            return await attester.collect(call.data, _deadline(call))

        return Result(data=self._runner.run(collect()))

    def nitro(self, call: Call) -> Result:
        """An attestation document with user data."""
        return Result(data=nitro.attestation_document("/", user_data=call.data))

    def bind(self, call: Call) -> Result:
        """Compare or extend an init-data digest."""
        import_module(call.name).bind_init_data(_settings(call), call.data)
        return Result()

    def problem(self, call: Call) -> Result:
        """Why registers cannot be had."""
        return Result(detail=import_module(call.name).measurement_problem(_settings(call)) or "")

    def register(self, call: Call) -> Result:
        """Read a register."""
        return Result(data=import_module(call.name).read_register(_settings(call), call.number))

    def extend(self, call: Call) -> Result:
        """Extend a register."""
        import_module(call.name).extend_register(_settings(call), call.number, call.data)
        return Result()

    def measure(self, call: Call) -> Result:
        """Measure ``domain operation content`` (in ``data``) into the event log and its register.

        ``number`` is the PCR, -1 for the configured one.
        """
        log = RuntimeLog(import_module(call.name), _settings(call))
        domain, operation, content = call.data.decode().split(" ", 2)
        pcr = call.number if call.number >= 0 else None
        return Result(detail=log.extend(domain, operation, content, pcr).name)

    def vtpm(self, call: Call) -> Result:
        """One more TPM, by the kernel's proxy driver; ``name`` is the folder of its state."""
        before = set(os.listdir("/dev"))  # noqa: PTH208
        command = [*self.swtpm, "chardev", "--vtpm-proxy", "--tpm2", "--tpmstate", f"dir={call.name}"]
        swtpm = subprocess.Popen([*command, "--flags", "startup-clear"])
        end = time.monotonic() + call.seconds
        while not (new := {name for name in set(os.listdir("/dev")) - before if name.startswith("tpmrm")}):  # noqa: PTH208
            if swtpm.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"swtpm: {swtpm.poll()}")
            time.sleep(0.05)
        return Result(lines=sorted(new))

    def detect(self, _call: Call) -> Result:
        """``tee found reason`` for every probe; the primary TEE in ``detail``."""
        found = detect("/", os.environ, os.uname().machine)
        return Result(
            detail=found.tee or "",
            lines=[f"{probe.tee} {'yes' if probe.found else 'no'} {probe.reason}" for probe in found.trail],
        )

    def read(self, call: Call) -> Result:
        """A file."""
        return Result(data=Path(call.name).read_bytes())

    def names(self, call: Call) -> Result:
        """What a folder holds."""
        return Result(lines=sorted(os.listdir(call.name)))  # noqa: PTH208

    def probe(self, _call: Call) -> Result:
        """What configfs-tsm answers to everything."""
        return Result(lines=probe.probe(_REPORTS))

    def registers(self, _call: Call) -> Result:
        """What TDX's measurement registers answer to everything."""
        return Result(lines=probe.probe_registers(Path("/", tdx_sysfs.MEASUREMENTS)))

    def request(self, call: Call) -> Result:
        """A report by configfs-tsm itself; ``name`` is the provider."""
        return Result(data=tsm.request("/", call.name, call.data, _deadline(call)).outblob)

    def run(self, call: Call) -> Result:
        """A program of the guest."""
        return Result(data=_run(*call.name.split()))


def _settings(call: Call) -> Settings:
    # The settings' own types are checked where they come from a file; here they come from the test.
    values: dict[str, Any] = dict(call.settings)
    return Settings(**values)


def _deadline(call: Call) -> Deadline:
    return Deadline.after(SystemClock(), call.seconds)


def _run(*command: str) -> bytes:
    done = subprocess.run(["/bin/busybox", *command], check=False, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _answer(work: Callable[[Call], Result], call: Call) -> Result:
    started = time.monotonic()
    try:
        result = work(call)
    except AgentError as error:
        result = Result(code=error.code.name, detail=error.detail)
    except Exception:  # noqa: BLE001 - the test shows it
        result = Result(code="crash", detail=traceback.format_exc())
    result.seconds = time.monotonic() - started
    return result


def main() -> None:
    """Be any machine the test asks for, until told to power off."""
    serve(Guest(open_port(PLATFORM_PORT)))


def serve(guest: object) -> None:
    """Greet, then answer the test's calls by the methods of ``guest``."""
    test = open_port(TEST_PORT)
    wire.send(test, Result(detail=f"Python {sys.version.split()[0]}, Linux {os.uname().release}"))
    while (call := wire.receive(test, Call)).op != "off":
        wire.send(test, _answer(getattr(guest, call.op), call))


if __name__ == "__main__":
    main()
