"""Every simulated TEE, through its real attester, to a secret; and one flipped bit in anything is refused."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from agent.devkit.guests import TEES, MissingToolError, guest
from agent.devkit.kbs import Settings
from agent.devkit.playground import playground
from agent.devkit.sample import SampleDevice
from agent.tee.attesters import DeviceAttester
from agent.tee.binding import bind_digest
from agent.tee.eventlog.ship import CCEL
from agent.tee.evidence_source import GuestEvidence
from tests.integration.fuse_support import need_fuse

from .support import BIN, CLEAN_ENVIRONMENT, http, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agent.clock import Deadline
    from agent.devkit.guests import SimulatedGuest
    from agent.devkit.kbs.answers import Answer, Call
    from agent.devkit.kbs.faults import Fault
    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

SECRET = b"the secret of a confidential guest"
PATH = "default/key/1"
TOML = 'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"policy.rego" = "package agent_policy"\n'


@dataclass(slots=True)
class Middle:
    """Whoever sits between the agent and its broker."""

    place: Playground

    def on_attest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the body of every POST /attest."""
        honest = self.place.kbs.broker.answer

        def answer(call: Call, fault: Fault | None = None) -> Answer:
            if call.endpoint != "attest":
                return honest(call, fault)
            body = json.loads(call.body)
            change(body)
            return honest(replace(call, body=json.dumps(body).encode()), fault)

        self.place.kbs.broker.answer = answer  # type: ignore[method-assign]

    def on_nonce(self) -> None:
        """Hand the guest another nonce, and the broker its own one back: only the evidence tells."""
        honest = self.place.kbs.broker.answer
        theirs = ""

        def answer(call: Call, fault: Fault | None = None) -> Answer:
            nonlocal theirs
            if call.endpoint == "attest":
                body = json.loads(call.body)
                body["runtime-data"]["nonce"] = theirs
                return honest(replace(call, body=json.dumps(body).encode()), fault)
            given = honest(call, fault)
            if call.endpoint != "auth":
                return given
            body = json.loads(given.body)
            theirs = body["nonce"]
            body["nonce"] = flipped(theirs)
            return replace(given, body=json.dumps(body).encode())

        self.place.kbs.broker.answer = answer  # type: ignore[method-assign]


class OtherReportData(GuestEvidence):
    """A guest whose evidence is about something else, by one bit."""

    async def primary(self, report_data: bytes, deadline: Deadline) -> bytes:
        return await super().primary(bytes([report_data[0] ^ 1]) + report_data[1:], deadline)


def flipped(text: str, at: int = 0, *, url: bool = False) -> str:
    """Base64 text with one bit of its bytes flipped."""
    decode, encode = (
        (base64.urlsafe_b64decode, base64.urlsafe_b64encode) if url else (base64.b64decode, base64.b64encode)
    )
    raw = bytearray(decode(text + "=" * (-len(text) % 4)))
    raw[at] ^= 1
    changed = encode(bytes(raw)).decode()
    return changed if text.endswith("=") or len(changed) == len(text) else changed.rstrip("=")


@asynccontextmanager
async def running(
    tee: str,
    *,
    init_data: str | None = None,
    device: bool = False,
    source: type[GuestEvidence] | None = None,
) -> AsyncIterator[Playground]:
    """A simulated guest, bound to its init-data as a start of the agent binds it, and its broker."""
    digest = b"" if init_data is None else hashlib.sha256(init_data.encode()).digest()
    try:
        async with guest(tee, digest) as simulated:
            if init_data is not None:
                await bind_digest(digest, simulated.settings, soon())
            evidence = _evidence(simulated, source, device=device)
            async with playground(guest=simulated, init_data=init_data, evidence=evidence) as place:
                place.kbs.put(PATH, SECRET)
                yield place
    except MissingToolError as missing:
        if os.environ.get("CI"):  # nothing is skipped there
            raise
        pytest.skip(str(missing))


def _evidence(
    simulated: SimulatedGuest, source: type[GuestEvidence] | None, *, device: bool
) -> GuestEvidence | None:
    if source is None and not device:
        return None  # detected and selected by the daemon, as in a real guest
    devices = (SampleDevice(),) if device else ()
    attester = DeviceAttester(simulated.tee, simulated.settings)
    return (source or GuestEvidence)(attester, devices, None)


async def secret(place: Playground) -> tuple[int, bytes]:
    answer = await http(f"{place.rest}/cdh/resource/{PATH}", headers={"Accept": "application/json"})
    return answer.status, answer.body


async def refused(place: Playground, log: pytest.LogCaptureFixture, reason: str) -> None:
    """The guest gets no secret, and the broker's log names the check."""
    with log.at_level(logging.INFO, "agent.devkit.kbs"):
        status, body = await secret(place)
    assert json.loads(body)["code"] == "ATTESTATION_REJECTED", (status, body)
    refusals = [each.getMessage() for each in log.records if "attest refused" in each.getMessage()]
    assert refusals
    assert reason in refusals[0]
    assert place.kbs.counters["attest_ok"] == place.kbs.counters["resource_ok"] == 0


# --- to a secret ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tee", TEES)
async def test_a_simulated_tee_reaches_a_secret(tee: str) -> None:
    async with running(tee) as place:
        assert await secret(place) == (200, SECRET)
        assert place.kbs.counters["attest_ok"] == 1
        assert place.daemon.attester is not None
        assert place.daemon.attester.evidence.tee == tee


@pytest.mark.parametrize("tee", TEES)
async def test_with_init_data_and_a_device(tee: str) -> None:
    async with running(tee, init_data=TOML, device=True) as place:
        Middle(place).on_attest(lambda body: None)  # reading it changes nothing
        assert await secret(place) == (200, SECRET)


@pytest.mark.parametrize("tee", TEES)
async def test_dev_runs_a_simulated_guest_to_a_secret(tee: str) -> None:
    async with running(tee):  # skips where this machine cannot simulate it
        pass
    seed = f"--resource={PATH}={SECRET.decode()}"
    dev = await asyncio.create_subprocess_exec(
        str(BIN / "coco-agent"), "dev", "--tee", tee, seed,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=CLEAN_ENVIRONMENT,
    )  # fmt: skip
    try:
        assert dev.stdout is not None
        banner = (await asyncio.wait_for(dev.stdout.readuntil(b"stops both.\n"), 30)).decode()
        rest = banner.split("curl ")[1].split("/cdh/")[0]
        answer = await http(f"{rest}/cdh/resource/{PATH}")
        assert (answer.status, answer.body) == (200, SECRET)
    finally:
        dev.terminate()
        status = await asyncio.wait_for(dev.wait(), 20)
    assert status == 0
    assert f"SIMULATED {tee} guest" in banner
    assert "throw-away roots" in banner
    folder = banner.split("guest   ")[1].split("\n")[0]
    assert not Path(folder).exists()


async def test_measurements_of_a_tdx_guest_are_in_log_and_registers() -> None:
    async with running("tdx") as place:
        seen: list[str] = []
        Middle(place).on_attest(
            lambda body: seen.append(body["tee-evidence"]["primary_evidence"]["cc_eventlog"])
        )
        await measure(place, "first")
        assert await secret(place) == (200, SECRET)
        await measure(place, "second")
        assert await secret(place) == (200, SECRET)
        assert [base64.b64decode(log).count(b"test Measure ") for log in seen] == [1, 2]


@pytest.mark.parametrize("required", [True, False])
async def test_a_tdx_guest_without_a_firmware_log(*, required: bool) -> None:
    need_fuse()
    body = json.dumps({"domain": "test", "operation": "Measure", "content": "image"}).encode()
    async with guest("tdx") as simulated:
        (Path(simulated.sysroot) / CCEL).unlink()
        settings = replace(simulated.settings, require_firmware_log=required)
        async with playground(guest=replace(simulated, settings=settings)) as place:
            place.kbs.put(PATH, SECRET)
            assert await secret(place) == (200, SECRET)
            answer = await http(
                f"{place.rest}/aa/aael", "POST", body, headers={"Content-Type": "application/json"}
            )
            assert answer.status == 200
            assert (b"does not support" in answer.body) == required
            # What the answer is for: Trustee wants a log to lead to all registers, or none at all.
            assert (await secret(place))[0] == (200 if required else 401)


async def measure(place: Playground, content: str) -> None:
    body = json.dumps({"domain": "test", "operation": "Measure", "content": content}).encode()
    answer = await http(f"{place.rest}/aa/aael", "POST", body, headers={"Content-Type": "application/json"})
    assert answer.status == 200, answer.body


# --- one flipped bit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tee", TEES)
async def test_other_report_data_is_refused(tee: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tee, source=OtherReportData) as place:
        await refused(place, caplog, _binding(tee))


@pytest.mark.parametrize("tee", TEES)
async def test_another_nonce_is_refused(tee: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tee) as place:
        Middle(place).on_nonce()
        await refused(place, caplog, _binding(tee))


@pytest.mark.parametrize("tee", TEES)
async def test_another_key_is_refused(tee: str, caplog: pytest.LogCaptureFixture) -> None:
    def change(body: dict[str, Any]) -> None:
        key = body["runtime-data"]["tee-pubkey"]
        key["x"] = flipped(key["x"], url=True)

    async with running(tee) as place:
        Middle(place).on_attest(change)
        await refused(place, caplog, _binding(tee))


@pytest.mark.parametrize("tee", TEES)
async def test_other_device_evidence_is_refused(tee: str, caplog: pytest.LogCaptureFixture) -> None:
    def change(body: dict[str, Any]) -> None:
        evidence = body["tee-evidence"]
        evidence["additional_evidence"] = evidence["additional_evidence"].replace('"svn":"2"', '"svn":"3"')

    async with running(tee, device=True) as place:
        Middle(place).on_attest(change)
        await refused(place, caplog, _binding(tee))


@pytest.mark.parametrize("tee", TEES)
async def test_other_init_data_is_refused(tee: str, caplog: pytest.LogCaptureFixture) -> None:
    def change(body: dict[str, Any]) -> None:
        body["init-data"]["body"] = body["init-data"]["body"].replace("agent_policy", "agent_policx")

    async with running(tee, init_data=TOML) as place:
        Middle(place).on_attest(change)
        await refused(place, caplog, f"{tee}: init-data")


def _event(body: dict[str, Any], what: bytes) -> None:
    """Flip a bit of the digest of the event with this text: the digest is what a replay reads."""
    evidence = body["tee-evidence"]["primary_evidence"]
    log = base64.b64decode(evidence["cc_eventlog"])
    digest = hashlib.sha384(what).digest()
    evidence["cc_eventlog"] = flipped(evidence["cc_eventlog"], log.index(digest))


@pytest.mark.parametrize("register", ["RTMR2", "RTMR3"])
async def test_another_event_log_is_refused(register: str, caplog: pytest.LogCaptureFixture) -> None:
    text = b"test Measure image"
    ours = b"LEAA" + len(text).to_bytes(4, "little") + text
    async with running("tdx") as place:
        await measure(place, "image")
        Middle(place).on_attest(
            lambda body: _event(body, ours if register == "RTMR3" else b"kernel /vmlinuz")
        )
        await refused(place, caplog, f"tdx: event log: its replay does not give {register}")


def _snp_measurement(evidence: dict[str, Any]) -> None:
    evidence["attestation_report"]["measurement"][0] ^= 1


def _quote(evidence: dict[str, Any]) -> None:
    evidence["quote"] = flipped(evidence["quote"], 48 + 136)


def _pcr(evidence: dict[str, Any]) -> None:
    pcrs = evidence["tpm_quote"]["pcrs"]
    pcrs[4] = bytes([bytes.fromhex(pcrs[4])[0] ^ 1, *bytes.fromhex(pcrs[4])[1:]]).hex()


def _hcl_measurement(evidence: dict[str, Any]) -> None:
    evidence["hcl_report"] = flipped(evidence["hcl_report"], 32 + 0x90, url=True)


def _td_quote(evidence: dict[str, Any]) -> None:
    evidence["td_quote"] = flipped(evidence["td_quote"], 48 + 136, url=True)


HARDWARE = [
    ("snp", _snp_measurement, "snp: report signature"),
    ("tdx", _quote, "tdx: quote signature"),
    ("az-snp-vtpm", _pcr, "az-snp-vtpm: PCR digest"),
    ("az-snp-vtpm", _hcl_measurement, "az-snp-vtpm: report signature"),
    ("az-tdx-vtpm", _pcr, "az-tdx-vtpm: PCR digest"),
    ("az-tdx-vtpm", _td_quote, "az-tdx-vtpm: quote signature"),
    ("tpm", _pcr, "tpm: PCR digest"),
]


@pytest.mark.parametrize(
    ("tee", "change", "reason"), HARDWARE, ids=[f"{tee} {why[len(tee) + 2 :]}" for tee, _, why in HARDWARE]
)
async def test_another_measurement_is_refused(
    tee: str, change: Callable[[dict[str, Any]], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tee) as place:
        Middle(place).on_attest(lambda body: change(body["tee-evidence"]["primary_evidence"]))
        await refused(place, caplog, reason)


def _binding(tee: str) -> str:
    """How the check is called that ties evidence to nonce, key and devices."""
    return f"{tee}: report data" if tee in {"snp", "tdx"} else f"{tee}: TPM quote nonce"


# --- what a simulated guest is not ----------------------------------------------------------------------


@pytest.mark.parametrize("tee", ["snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm"])
async def test_another_broker_does_not_believe_it(tee: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tee) as place:
        place.kbs.broker._settings = Settings()
        await refused(place, caplog, f"{tee}: ")
