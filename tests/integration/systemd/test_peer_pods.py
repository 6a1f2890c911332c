"""The three units of a peer-pod image under a real systemd: user data comes, and one triggers the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.systemd.broker import PORT, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.systemd.machine import Machine

ATTESTER, HUB, GATEWAY = "attestation-agent", "confidential-data-hub", "api-server-rest"
NAMES = (ATTESTER, HUB, GATEWAY)
FOLDER = "/run/confidential-containers"
RESOURCE = "/cdh/resource/default/key/1"

pytestmark = pytest.mark.integration

# Of the peer-pod image: makes the namespace that the pod's containers are in.
NETNS = """[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip netns add %i && ip -n %i link set lo up'
ExecStop=/bin/sh -c 'ip netns delete %i'
"""


@pytest.fixture
def pod(peer_pod: Machine) -> Iterator[Machine]:
    """Booted, user data provisioned, everything triggered by itself."""
    machine = peer_pod
    machine.write("/etc/systemd/system/netns@.service", NETNS, 0o644)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "netns@podns.service", *(f"{name}.path" for name in NAMES))
    assert machine.show(f"{ATTESTER}.service", "ActiveState") == {"ActiveState": "inactive"}
    machine.write("/run/peerpod/auth.json", "{}")
    machine.write("/run/peerpod/cdh.toml", f'[kbc]\nname = "cc_kbc"\nurl = "http://127.0.0.1:{PORT}"\n')
    machine.write("/run/peerpod/aa.toml", f'[token_configs.kbs]\nurl = "http://127.0.0.1:{PORT}"\n')
    for name in NAMES:
        machine.until(f"{name}.service", ActiveState="active")
    yield machine
    machine.systemctl("stop", *(f"{name}.path" for name in NAMES), *(f"{name}.service" for name in NAMES))
    machine.systemctl("stop", "netns@podns.service")
    machine.run("rm", "-rf", "/run/peerpod", FOLDER)
    machine.systemctl("reset-failed", *(f"{name}.service" for name in NAMES), check=False)


def answered(pod: Machine) -> bytes:
    """As a container of the pod asks: again, while the gateway is not there yet."""
    patience = ("--retry", "40", "--retry-delay", "1", "--retry-all-errors", "--max-time", "60")
    url = f"http://127.0.0.1:8006{RESOURCE}"
    return pod.run("ip", "netns", "exec", "podns", "curl", "-sS", "--fail", *patience, url).encode()


def launcher(pod: Machine) -> int:
    """The hub's: the main process, or the child of the stock unit's shell."""
    main = pod.main_pid(f"{HUB}.service")
    child = pod.run("pgrep", "--parent", str(main), check=False).strip()
    return int(child or main)


def listens(pod: Machine, name: str) -> bool:
    """Whether the main process of a unit holds a listening socket in its table of descriptors."""
    pid = pod.main_pid(f"{name}.service")
    return f"pid={pid}," in pod.run("ss", "--listening", "--unix", "--processes")


def test_user_data_starts_all_as_one_daemon(pod: Machine) -> None:
    assert answered(pod) == SECRET
    # REST is in the pod's network and nowhere else.
    assert not pod.get("/healthz", check=False)
    assert pod.get(RESOURCE, within="podns", host="[::1]").encode() == SECRET
    status = pod.run("cat", f"/proc/{launcher(pod)}/status")
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    assert int(resident.split()[1]) < 16 * 1024  # it only waits
    assert listens(pod, ATTESTER)
    assert not listens(pod, HUB)
    assert not listens(pod, GATEWAY)


def test_a_launcher_that_ends_takes_nothing_with_it_and_comes_back(pod: Machine) -> None:
    daemon = pod.main_pid(f"{ATTESTER}.service")
    for name in (HUB, GATEWAY):
        pod.run("kill", "-KILL", str(pod.main_pid(f"{name}.service")))
        pod.until(f"{name}.service", NRestarts="1", ActiveState="active", SubState="running")
    assert answered(pod) == SECRET
    assert pod.main_pid(f"{ATTESTER}.service") == daemon
    pod.systemctl("stop", f"{GATEWAY}.path", f"{GATEWAY}.service")
    assert {"cdh.sock", "coco-agent"} <= set(pod.run("ls", FOLDER).split())
    assert pod.main_pid(f"{ATTESTER}.service") == daemon


def test_when_the_daemon_is_killed_all_come_back_as_one(pod: Machine) -> None:
    before = pod.main_pid(f"{ATTESTER}.service")
    pod.run("kill", "-KILL", str(before))
    pod.until(f"{ATTESTER}.service", NRestarts="1", ActiveState="active", SubState="running")
    assert answered(pod) == SECRET
    assert not listens(pod, HUB)
    assert not listens(pod, GATEWAY)


@pytest.mark.parametrize("peer_pod", ["ours"], indirect=True)  # stock units have no watchdog
def test_a_hung_daemon_is_replaced_although_its_rest_socket_is_in_another_network(pod: Machine) -> None:
    unit = f"{ATTESTER}.service"
    pod.run("mkdir", "-p", f"/run/systemd/system/{unit}.d")
    pod.write(f"/run/systemd/system/{unit}.d/test.conf", "[Service]\nWatchdogSec=5\nRestartSec=0\n", 0o644)
    pod.systemctl("daemon-reload")
    try:
        pod.systemctl("restart", unit)
        assert answered(pod) == SECRET
        pod.run("sleep", "8")
        assert pod.show(unit, "NRestarts") == {"NRestarts": "0"}
        pod.run("kill", "-STOP", str(pod.main_pid(unit)))
        pod.until(unit, NRestarts="1", ActiveState="active", SubState="running")
        assert answered(pod) == SECRET
    finally:
        pod.run("rm", "-r", f"/run/systemd/system/{unit}.d")
        pod.systemctl("daemon-reload")


def test_without_a_hub_configuration_the_hub_starts_all_the_same(peer_pod: Machine) -> None:
    machine = peer_pod
    machine.write("/run/peerpod/aa.toml", "")
    machine.systemctl("start", f"{HUB}.service")
    machine.until(f"{HUB}.service", ActiveState="active", SubState="running")
    # The socket comes a moment after the program; the command fails if it does not come.
    machine.run("timeout", "20", "sh", "-c", f"until test -S {FOLDER}/cdh.sock; do sleep 0.05; done")
    assert machine.show(f"{HUB}.service", "NRestarts") == {"NRestarts": "0"}
    machine.systemctl("stop", f"{HUB}.service", f"{ATTESTER}.service")
    machine.run("rm", "-rf", "/run/peerpod", FOLDER)
