"""coco-agent.service and its sockets under a real systemd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.systemd.broker import SECRET
from tests.integration.systemd.machine import PYTHON, UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.systemd.machine import Machine

UNIT = "coco-agent.service"
SOCKETS = ("coco-agent-attester.socket", "coco-agent-hub.socket", "coco-agent-gateway.socket")
HUB = "/run/confidential-containers/cdh.sock"
RESOURCE = "/cdh/resource/default/key/1"

pytestmark = pytest.mark.integration

CONNECT = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(20)
    try:
        client.connect(sys.argv[1])
        # a ttrpc request that nobody can parse: the answer shows who is there
        client.sendall(bytes([0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 255]))
        print(json.dumps({"kind": str(client.recv(10)[8])}))
    except OSError as error:
        print(json.dumps({"error": type(error).__name__}))
"""


NEEDED = (
    "a child program",
    "fork",
    "a callback from C",
    "no core dumps",
    "its folder",
    "the event log's folder",
    "a private /tmp",
    "the kernel command line",
    "its configuration",
    "names",
    "a TEE's device",
    "AF_UNIX",
    "AF_INET",
    "AF_INET6",
    "AF_NETLINK",
)
REFUSED = {
    "another device": "EPERM",
    "making a device": "EPERM",
    "writing to /etc": "EROFS",
    "writing to /usr": "EROFS",
    "writing to /run": "EROFS",
    "writing to /sys": "EROFS",
    "a home folder": "EACCES",
    "mounting": "EPERM",
    "a namespace": "EPERM",
    "another user": "EPERM",
    "another owner": "EPERM",
    "raw packets": "EAFNOSUPPORT",
    "writable code": "EPERM",
    "tracing": "EPERM",
    "the clock": "EPERM",
    "the kernel's log": "EACCES",
    "a set-user-ID program": "EPERM",
    "capabilities": "0" * 32,
    "no new privileges": "1",
}


@pytest.fixture(autouse=True)
def _fresh(vm: Machine) -> Iterator[None]:
    yield
    vm.systemctl("stop", *SOCKETS, UNIT)
    vm.run("rm", "-rf", f"/etc/systemd/system/{UNIT}.d")
    vm.systemctl("daemon-reload")
    vm.systemctl("reset-failed", UNIT, check=False)


def test_start_returns_when_it_serves_and_a_secret_comes_through(vm: Machine) -> None:
    vm.systemctl("start", UNIT)
    assert vm.get(RESOURCE).encode() == SECRET
    shown = vm.show(UNIT, "ActiveState", "StatusText", "NRestarts")
    assert shown == {
        "ActiveState": "active",
        "StatusText": "serving attester, gateway, hub",
        "NRestarts": "0",
    }


def test_stop_ends_it_at_once_and_the_event_log_s_folder_stays(vm: Machine) -> None:
    vm.systemctl("start", UNIT)
    vm.run("touch", "/run/attestation-agent/eventlog")
    vm.systemctl("stop", UNIT)
    assert vm.show(UNIT, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert vm.run("ls", "/run/attestation-agent") == "eventlog\n"
    assert "cdh.sock" not in vm.run("ls", "/run/confidential-containers")


def test_a_daemon_that_hangs_is_killed_and_started_anew(vm: Machine) -> None:
    vm.drop_in(UNIT, "[Service]\nWatchdogSec=5\nRestartSec=0\n")
    vm.systemctl("start", UNIT)
    before = vm.main_pid(UNIT)
    vm.run("kill", "-STOP", str(before))
    vm.until(UNIT, NRestarts="1", ActiveState="active", SubState="running")
    assert vm.main_pid(UNIT) != before
    assert vm.get(RESOURCE).encode() == SECRET
    assert "Watchdog timeout" in vm.journal(UNIT)


def test_one_that_answers_is_left_alone(vm: Machine) -> None:
    vm.drop_in(UNIT, "[Service]\nWatchdogSec=5\n")
    vm.systemctl("start", UNIT)
    vm.run("sleep", "8")
    assert vm.show(UNIT, "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def test_a_crash_is_followed_by_a_start(vm: Machine) -> None:
    vm.systemctl("start", UNIT)
    before = vm.main_pid(UNIT)
    vm.run("kill", "-SEGV", str(before))
    vm.until(UNIT, NRestarts="1", ActiveState="active", SubState="running")
    assert vm.main_pid(UNIT) != before
    assert vm.get(RESOURCE).encode() == SECRET


def test_a_start_that_cannot_succeed_is_not_tried_for_ever(vm: Machine) -> None:
    vm.drop_in(
        UNIT, "[Service]\nRestartSec=0\nExecStart=\nExecStart=/usr/local/bin/coco-agent serve --bind x\n"
    )
    vm.systemctl("start", UNIT, check=False)
    vm.until(UNIT, seconds=90, ActiveState="failed", NRestarts="20")


def test_a_caller_of_a_socket_starts_it(vm: Machine) -> None:
    vm.systemctl("start", *SOCKETS)
    assert vm.show(UNIT, "ActiveState") == {"ActiveState": "inactive"}
    assert vm.probe(CONNECT, HUB) == {"kind": "2"}
    vm.until(UNIT, ActiveState="active")
    assert vm.get(RESOURCE).encode() == SECRET


def test_rest_has_both_addresses_of_localhost(vm: Machine) -> None:
    vm.systemctl("start", "coco-agent-gateway.socket", UNIT)
    for host in ("127.0.0.1", "[::1]"):
        assert vm.get(RESOURCE, host=host).encode() == SECRET
    # systemd holds them while there is no daemon.
    vm.systemctl("stop", UNIT)
    listening = vm.run("ss", "--listening", "--tcp", "--numeric")
    assert "127.0.0.1:8006" in listening
    assert "[::1]:8006" in listening


def test_where_ipv6_is_off_the_socket_unit_starts_all_the_same(vm: Machine) -> None:
    switch = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"
    vm.run("sh", "-c", f"echo 1 >{switch}")
    try:
        vm.systemctl("start", "coco-agent-gateway.socket", UNIT)
        assert vm.get(RESOURCE).encode() == SECRET
    finally:
        vm.run("sh", "-c", f"echo 0 >{switch}")


def test_with_sockets_a_restart_refuses_nobody(vm: Machine) -> None:
    vm.systemctl("start", *SOCKETS, UNIT)
    before = vm.run("stat", "--format=%i %a", HUB)
    vm.systemctl("--no-block", "restart", UNIT)
    # Between two daemons the connection waits, and is answered by the second.
    assert vm.probe(CONNECT, HUB) == {"kind": "2"}
    assert vm.get("/healthz")
    vm.until(UNIT, ActiveState="active")
    assert vm.run("stat", "--format=%i %a", HUB) == before
    assert before.endswith(" 600\n")


def test_the_sandbox_lets_the_agent_work_and_nothing_else(vm: Machine) -> None:
    out = "/run/confidential-containers/probe.json"
    probe = Path(__file__).with_name("probe.py").read_text()
    vm.write("/opt/coco/probe.py", probe)
    # A device that opens (full), and one that would (tun): the first is on the list by its name.
    vm.run("mknod", "-m", "600", "/dev/sev-guest", "c", "1", "7")
    vm.run("mknod", "-m", "600", "/dev/coco-other", "c", "10", "200")
    vm.drop_in(
        UNIT,
        "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n"
        f"Environment=PYTHONPATH=/opt/coco/site\nExecStart={PYTHON} -B /opt/coco/probe.py {out}\n",
    )
    vm.systemctl("start", UNIT)
    assert json.loads(vm.run("cat", out)) == {**dict.fromkeys(NEEDED, "ok"), **REFUSED}


def test_without_root_it_serves_too(vm: Machine) -> None:
    drop_ins = UNITS / "drop-ins"
    vm.write("/etc/sysusers.d/coco-agent.conf", (drop_ins / "coco-agent.sysusers").read_text(), 0o644)
    vm.run("systemd-sysusers")
    vm.drop_in(UNIT, (drop_ins / "without-root.conf").read_text())
    vm.run("chmod", "644", "/etc/coco-agent/agent.toml")
    vm.run("chmod", "755", "/etc/coco-agent")
    vm.systemctl("start", UNIT)
    assert vm.get(RESOURCE).encode() == SECRET
    assert vm.run("stat", "--format=%U %G", f"/proc/{vm.main_pid(UNIT)}") == "coco-agent coco-agent\n"
    assert vm.run("stat", "--format=%U %a", HUB) == "coco-agent 600\n"
    assert vm.probe(CONNECT, HUB) == {"kind": "2"}  # root, as kata-agent
