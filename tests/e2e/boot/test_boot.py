"""The built root boots, attests by simulated SEV-SNP, and gives every kind of caller what is theirs."""

from __future__ import annotations

import json

import pytest

from agent import readahead
from agent.devkit.demo import LAYER_KEY, RESOURCE, SIGNING_KEY, open_layer
from agent.tee.evidence.snp import parse_report
from rootfs import layout
from tests.e2e.boot import figures
from tests.e2e.boot.booted import AGENT, Booted, show
from tests.e2e.boot.world import HOST, REST

pytestmark = pytest.mark.vm


def test_the_first_workload_got_its_secret(booted: Booted) -> None:
    assert booted.machine.call("read", "/run/first").data == booted.world.material.password


def test_a_container_asks_and_sees_nothing_else_of_the_agent(booted: Booted) -> None:
    url = f"{REST}/{RESOURCE}"
    got = booted.container("curl", "--silent", "--show-error", "--write-out", " %{http_code}", url)
    assert got.data == booted.world.material.password + b" 200"
    assert booted.container("busybox", "ls", "/run").detail != "0"
    processes = booted.container("busybox", "ps").data.decode()
    assert "coco-agent" not in processes
    assert "systemd" not in processes


def test_a_resource_the_broker_refuses(booted: Booted) -> None:
    booted.world.kbs.put("default/not/yours", b"a secret of another guest")
    url = f"{REST}/default/not/yours"
    got = booted.container("curl", "--silent", "--header", "Accept: application/json", url)
    assert json.loads(got.data)["code"] == "RESOURCE_DENIED"


def test_a_sealed_secret(booted: Booted) -> None:
    material = booted.world.material
    assert booted.machine.call("unseal", data=material.sealed.encode()).data == material.password


def test_an_image_key(booted: Booted) -> None:
    material = booted.world.material
    answer = booted.machine.call("unwrap", data=material.key_request).data
    assert open_layer(answer, material.cipher_layer) == material.layer


def test_one_attestation_for_all_of_it(booted: Booted) -> None:
    """Resources are for guests that proved to be SEV-SNP (``world``), so it was by that evidence."""
    counters = booted.world.kbs.counters
    assert {counters["attest"], counters["attest_ok"], counters["verified"]} == {len(booted.lives)}


def test_the_unit_is_up_and_its_watchdog_fed(booted: Booted) -> None:
    unit = show(booted.machine, AGENT)
    assert (unit["ActiveState"], unit["SubState"], unit["NRestarts"]) == ("active", "running", "0")
    assert (unit["Type"], unit["FragmentPath"]) == ("notify", f"/lib/systemd/system/{AGENT}")
    assert int(unit["WatchdogTimestampMonotonic"]) > int(unit["ExecMainStartTimestampMonotonic"])
    assert unit["WatchdogUSec"] not in {"", "0", "infinity"}


def test_what_helped_it_to_start_is_gone(booted: Booted) -> None:
    """The process that read its modules ahead, and the one that collected evidence."""
    pid = show(booted.machine, AGENT)["MainPID"]
    assert booted.shell("cat", f"/proc/{pid}/task/{pid}/children").data == b""
    assert booted.shell("test", "-s", f"/{layout.HOME}/{readahead.LIST}").detail == "0"


def test_nothing_failed(booted: Booted) -> None:
    failed = booted.run("/usr/bin/systemctl", "--failed", "--no-legend", "--plain").data.decode()
    assert failed == ""
    assert booted.run("/usr/bin/systemctl", "is-system-running").data == b"running\n"


def test_the_root_is_verified_and_read_only(booted: Booted) -> None:
    mounts = booted.machine.call("read", "/proc/self/mounts").data.decode().splitlines()
    root = next(line.split() for line in mounts if line.split()[1] == "/")
    assert root[2] == "erofs"
    assert "ro" in root[3].split(",")
    kind = (
        booted.shell("cat", "/sys/dev/block/254:0/dm/uuid").data
        or booted.shell("cat", "/sys/block/dm-0/dm/uuid").data
    )
    assert kind.startswith(b"CRYPT-VERITY-")
    assert "Read-only" in "".join(booted.shell("touch", "/usr/new").lines)


def test_nobody_can_log_in(booted: Booted) -> None:
    for program in ("/bin/sh", "/bin/bash", "/bin/login", "/sbin/agetty", "/usr/bin/apt", "/usr/bin/python3"):
        assert booted.shell("test", "-e", program).detail == "1", program


def test_the_console_tells_nothing(booted: Booted) -> None:
    """The host reads it. The broker's address is on the kernel command line, which the host wrote."""
    console = booted.machine.console
    material = booted.world.material
    secrets = [material.password.decode(), material.password.hex(), material.sealed[:40]]
    names = [RESOURCE, SIGNING_KEY, LAYER_KEY, *RESOURCE.split("/")[1:], "signing-key", "image-kek"]
    for text in (*secrets, *names, HOST, "kbs", "Bearer", "eyJ"):
        assert text not in console, text


def test_configfs_tsm_is_the_kernels(booted: Booted) -> None:
    report_data = bytes(range(64))
    report = parse_report(booted.machine.call("request", "sev_guest", report_data).data)
    assert report.report_data == report_data


def test_figures(booted: Booted) -> None:
    """For the bench; the budget is told there."""
    moments = booted.moments
    memory = [line.split() for line in booted.machine.call("memory", AGENT).lines]
    resident = sum(int(size) for _, size, _ in memory) / 1000
    assert moments["init"] < moments["systemd"] < moments["exec"] < moments["socket"] < moments["secret"]
    assert 10 < resident < 256
    figures.write({
        "vm_accelerator": booted.machine.accelerator,
        "vm_init_to_secret_s": round(moments["secret"] - moments["systemd"], 2),
        "vm_aa_socket_s": round(moments["socket"] - moments["exec"], 2),
        "vm_daemon_rss_mb": round(resident, 1),
    })  # fmt: skip


def test_a_new_start_with_a_tpm_there_too(booted: Booted) -> None:
    """A TPM is no reason to attest by it when there is more."""
    booted.shell("cp", "-r", "/run/test/tpm", "/run/tpm")
    assert booted.machine.call("vtpm", "/run/tpm", seconds=60).lines == ["tpmrm0"]
    quote = booted.machine.call("collect", "agent.tee.tpm", bytes(48), seconds=120).data
    assert b"quote" in quote
    assert booted.run("/usr/bin/systemctl", "restart", AGENT).detail == "0"
    booted.lives.append("with a TPM")
    got = booted.container("curl", "--silent", "--show-error", f"{REST}/{RESOURCE}")
    assert got.data == booted.world.material.password
