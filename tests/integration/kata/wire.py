"""What the test says to the harness, and what that answers: a line of JSON each."""

from __future__ import annotations

import msgspec


class Boot(msgspec.Struct, tag="boot"):
    """Begin: a guest with these files and parameters starts its components.

    Attributes:
        cmdline: the kernel command line.
        files: below ``initdata/``, as kata-agent wrote them.
        procs: ``agent.guest_components_procs``.
        features: ``agent.guest_components_rest_api``.
        timeout: ``agent.launch_process_timeout``, seconds.
        systemd: whether kata-agent is systemd's, or the first process.
        extension: folder of the mounted extension, as the guest sees it; empty: the built-in plan.
    """

    cmdline: str = ""
    files: dict[str, str] = {}
    procs: str = "api-server-rest"
    features: str = "resource"
    timeout: int = 6
    systemd: bool = True
    extension: str = ""


class Unseal(msgspec.Struct, tag="unseal"):
    """Over the one connection: UnsealSecret."""

    secret: bytes


class Network(msgspec.Struct, tag="network"):
    """The runtime brings the network, and with it name service and broker."""


class Get(msgspec.Struct, tag="get"):
    """A workload asks the REST API."""

    path: str


class Look(msgspec.Struct, tag="look"):
    """What is there now."""


class Signal(msgspec.Struct, tag="signal"):
    """A signal for one program, and its end."""

    name: str
    number: int


class Relaunch(msgspec.Struct, tag="relaunch"):
    """Start one program again, as it was started."""

    name: str


Word = Boot | Unseal | Network | Get | Look | Signal | Relaunch


class Told(msgspec.Struct):
    """The answer.

    Attributes:
        error: why kata-agent would have ended, which powers the machine off; or the ttrpc message.
        code: ttrpc status, HTTP status or exit status.
        body: what was got.
        seconds: until each program's socket was there.
        sockets: socket files that were there after each program's wait, by program.
        running: resident megabytes (10**6 bytes) by program.
        mounts: whether each program sees kata-agent's mounts and no others.
        attestations: handshakes the broker saw.
        files: below /run, folders too.
        log: what the programs wrote to the console.
    """

    error: str = ""
    code: int = 0
    body: bytes = b""
    seconds: dict[str, float] = {}
    sockets: dict[str, list[str]] = {}
    running: dict[str, float] = {}
    mounts: bool = True
    attestations: int = 0
    files: list[str] = []
    log: str = ""
