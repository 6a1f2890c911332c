from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.model import Attester
from agent.tee.platform import DEVICES, ORDER, Detection, Probe, detect

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TSM = "sys/kernel/config/tsm/report"
TAG = "sys/devices/virtual/dmi/id/chassis_asset_tag"


class Guest:
    """A file system to look at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environ: dict[str, str] = {}

    def put(self, path: str, content: bytes = b"") -> Guest:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return self

    def folder(self, path: str) -> Guest:
        (self.root / path).mkdir(parents=True)
        return self

    def detect(self, machine: str = "x86_64") -> Detection:
        return detect(str(self.root), self.environ, machine)

    def listing(self) -> Mapping[str, bytes]:
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in self.root.rglob("*")}


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def probe(detection: Detection, tee: str, *, device: bool = False) -> Probe:
    part = detection.trail[len(ORDER) :] if device else detection.trail[: len(ORDER)]
    return next(each for each in part if each.tee == tee)


def test_an_empty_machine_has_no_tee_and_every_probe_says_why(guest: Guest) -> None:
    found = guest.detect()
    assert (found.tee, found.devices, found.possible) == (None, (), ())
    assert tuple(each.tee for each in found.trail) == ORDER + DEVICES
    assert all(each.reason and not each.found for each in found.trail)


def test_the_trail_covers_every_wire_string(guest: Guest) -> None:
    strings = "az-snp-vtpm az-tdx-vtpm cca csv hygondcu nvidia se sgx snp tdx tpm sample sampledevice"
    assert set(strings.split()) <= {each.tee for each in guest.detect().trail}


@pytest.mark.parametrize(
    ("tee", "path", "content", "machine"),
    [
        ("tdx", "dev/tdx_guest", b"", "x86_64"),
        ("tdx", f"{TSM}/entry/provider", b"tdx_guest\n", "x86_64"),
        ("sgx", "dev/attestation/attestation_type", b"dcap", "x86_64"),
        ("snp", "sys/devices/platform/sev-guest/x", b"", "x86_64"),
        ("csv", "dev/csv-guest", b"", "x86_64"),
        ("cca", f"{TSM}/entry/provider", b"arm_cca_guest\n", "aarch64"),
        ("se", "sys/firmware/uv/prot_virt_guest", b"1\n", "s390x"),
    ],
)
def test_each_tee_is_recognised(guest: Guest, tee: str, path: str, content: bytes, machine: str) -> None:
    guest.put(path, content)
    found = guest.detect(machine)
    assert found.tee == tee
    assert probe(found, tee).found
    assert [each.tee for each in found.trail if each.found] == [tee]


@pytest.mark.parametrize(
    ("path", "content", "machine"),
    [
        (f"{TSM}/entry/provider", b"tdx_guest", "x86_64"),  # the newline belongs to it
        (f"{TSM}/entry/provider", b"sev_guest\n", "x86_64"),
        (f"{TSM}/entry/provider", b"arm_cca_guest\n", "x86_64"),
        ("dev/attestation/attestation_type", b"dcap\n", "x86_64"),  # not trimmed
        ("dev/attestation/attestation_type", b"none", "x86_64"),
        ("dev/sev-guest", b"", "x86_64"),  # the platform device is what counts
        ("sys/devices/platform/sev-guest", b"", "x86_64"),  # a folder, not a file
        ("sys/firmware/uv/prot_virt_guest", b"0\n", "s390x"),
        ("sys/firmware/uv/prot_virt_guest", b"", "s390x"),
        ("sys/firmware/uv/prot_virt_guest", b"1\n", "x86_64"),
        ("dev/tpm0", b"", "x86_64"),
        (TAG, b"7783-7084-3265-9085-8269-3286-77\n", "x86_64"),
    ],
)
def test_what_looks_like_a_tee_is_none(guest: Guest, path: str, content: bytes, machine: str) -> None:
    guest.put(path, content)
    found = guest.detect(machine)
    assert (found.tee, found.possible) == (None, ())


def test_the_first_match_in_the_order_wins(guest: Guest) -> None:
    guest.put("dev/csv-guest").folder("sys/devices/platform/sev-guest")
    assert guest.detect().tee == "snp"
    guest.environ["OCCLUM"] = ""
    assert guest.detect().tee == "sgx"
    guest.put("dev/tdx_guest")
    assert guest.detect().tee == "tdx"
    assert probe(guest.detect(), "csv").found  # the trail still says what else is there


def test_the_environment_never_selects_a_sample(guest: Guest) -> None:
    guest.environ.update({"ENABLE_SAMPLE_DEVICE": "1", "SAMPLE": "1", "AA_SAMPLE": "true"})
    found = guest.detect()
    assert (found.tee, found.devices) == (None, ())
    assert "ignored" in probe(found, "sampledevice", device=True).reason


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.dictionaries(
        st.sampled_from(
            ["ENABLE_SAMPLE_DEVICE", "COCO_ALLOW_SAMPLE", "ALLOW_SAMPLE", "TEE", "AA_KBC_PARAMS"]
        ),
        st.text(max_size=8),
    ),
    machine=st.sampled_from(["x86_64", "aarch64", "s390x", "riscv64", ""]),
)
def test_no_environment_makes_evidence_out_of_nothing(
    guest: Guest, names: dict[str, str], machine: str
) -> None:
    found = detect(str(guest.root), names, machine)
    assert (found.tee, found.devices) == (None, ())


def test_an_azure_guest_with_a_tpm_may_be_a_tee(guest: Guest) -> None:
    guest.put(TAG, b"7783-7084-3265-9085-8269-3286-77\n").put("dev/tpmrm0")
    found = guest.detect()
    assert found.tee is None
    assert found.possible == ("az-tdx-vtpm", "az-snp-vtpm")
    for tee in found.possible:
        assert "it may be this" in probe(found, tee).reason
    guest.put("dev/tdx_guest")
    assert guest.detect().possible == ()


def test_a_configured_tpm_is_the_only_one_asked(guest: Guest) -> None:
    guest.put("dev/tpmrm0").put(TAG, b"7783-7084-3265-9085-8269-3286-77\n")
    settings = Attester(tpm_device="/dev/tpm7")
    found = detect(str(guest.root), {}, "x86_64", settings)
    assert (found.tee, found.possible) == (None, ())
    guest.put("dev/tpm7")
    assert "/dev/tpm7" in probe(detect(str(guest.root), {}, "x86_64", settings), "tpm").reason


def test_what_lies_in_a_tpm_s_place_is_not_written_to(guest: Guest) -> None:
    guest.put("dev/tpm0", b"planted")
    os.mkfifo(guest.root / "dev/tpmrm0")
    assert "QUOTE_PATH_MISSING" not in probe(guest.detect(), "tpm").reason
    assert "/dev/tpmrm0" in probe(guest.detect(), "tpm").reason
    assert (guest.root / "dev/tpm0").read_bytes() == b"planted"


def test_a_tpm_alone_is_no_reason_to_refuse_anything(guest: Guest) -> None:
    guest.put("dev/tpm0")
    found = guest.detect()
    assert found.possible == ()
    assert "/dev/tpm0" in probe(found, "tpm").reason


def test_a_dcu_needs_its_driver_and_a_node(guest: Guest) -> None:
    guest.put("dev/mkfd")
    assert guest.detect().devices == ()
    guest.folder("sys/devices/virtual/kfd/kfd/topology/nodes/0")
    assert guest.detect().devices == ("hygondcu",)
    assert guest.detect().tee is None


def test_gpus_are_found_by_their_nodes(guest: Guest) -> None:
    guest.put("dev/nvidiactl").put("dev/nvidia-uvm")
    assert guest.detect().devices == ()
    guest.put("dev/nvidia0").put("dev/nvidia11")
    found = guest.detect()
    assert found.devices == ("nvidia",)
    assert "2 GPUs" in probe(found, "nvidia", device=True).reason
    assert guest.detect("aarch64").devices == ()


def test_a_dpu_is_seen_and_never_reported(guest: Guest) -> None:
    bus = "sys/bus/pci/devices/0000:01:00.0"
    guest.put(f"{bus}/vendor", b"0x15B3\n").put(f"{bus}/device", b"0xa2dc\n")
    found = guest.detect()
    assert found.devices == ()
    assert "BlueField" in probe(found, "nvidiadpu", device=True).reason


def test_looking_changes_nothing(guest: Guest) -> None:
    guest.folder(TSM).put("dev/tpm0").put("dev/attestation/attestation_type", b"dcap")
    before = guest.listing()
    guest.detect()
    assert guest.listing() == before


def test_no_entry_is_made_where_there_is_no_configfs(guest: Guest) -> None:
    guest.folder("sys/kernel/config")
    guest.detect()
    assert not (guest.root / "sys/kernel/config/tsm").exists()
    assert "no /sys/kernel/config/tsm/report" in probe(guest.detect(), "tdx").reason


@pytest.mark.parametrize("content", [b"\x1b[31mred\n", b"\xff" * 5000, "\u202e".encode()])
def test_what_the_host_wrote_does_not_reach_the_terminal(guest: Guest, content: bytes) -> None:
    guest.put(f"{TSM}/entry/provider", content)
    reason = probe(guest.detect(), "tdx").reason
    assert reason.isascii()
    assert reason.isprintable()
    assert len(reason) < 300


def test_paths_of_the_wrong_kind_are_survived(guest: Guest) -> None:
    guest.folder("dev/attestation/attestation_type").folder("sys/firmware/uv/prot_virt_guest")
    guest.put(TSM).put("sys/bus/pci/devices").folder(f"{TAG}/x")
    for machine in ("x86_64", "s390x", "aarch64"):
        assert guest.detect(machine).tee is None
