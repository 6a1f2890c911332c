"""SNP reports verified offline (attesters.md 18.1, 19.1, 20 rows 21 to 23, 21.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from msgspec.structs import replace

from agent.devkit.evidence_pki import authority
from agent.errors import AgentError
from agent.tee.evidence import certs, snp_chain
from agent.tee.evidence.snp import parse_report
from agent.tee.evidence.verdict import VENDOR, Check, Roots, holds
from tests.unit.tee.evidence.amd import by_name, chain, changed, raw_report, signer
from tests.vectors import recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.devkit.evidence_pki.amd import AmdSigner

ARC = "1.3.6.1.4.1.3704.1"
NAMES = ["signing key", "certificate chain", "report signature", "certified TCB", "chip id"]


def verify(raw: bytes, certificates: Sequence[bytes], roots: Roots) -> dict[str, Check]:
    checks = snp_chain.verify(parse_report(raw), certificates, roots)
    assert [each.name for each in checks] == NAMES
    return by_name(checks)


def failed(checks: dict[str, Check]) -> list[str]:
    return [each.name for each in checks.values() if each.passed is False]


def bare(vendor: AmdSigner) -> Roots:
    """Pins alone, nothing to complete a chain with."""
    return replace(vendor.roots, certificates=())


@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("generation", ["Milan", "Genoa", "Turin"])
def test_a_report_holds(generation: Any, version: int) -> None:
    vendor = signer(generation)
    checks = verify(raw_report(generation, version=version), chain(vendor), bare(vendor))
    assert holds(checks.values()), checks


def test_a_report_by_a_vlek_holds_and_names_no_chip() -> None:
    vendor = signer("Milan", vlek=True)
    raw = vendor.resigned(changed(raw_report("Milan", vlek=True), 0x1A0, bytes(64)))
    checks = verify(raw, chain(vendor), bare(vendor))
    assert holds(checks.values())
    assert "SEV-VLEK-Milan" in checks["certificate chain"].detail


def test_the_leaf_alone_is_completed_from_the_roots_and_order_does_not_matter() -> None:
    vendor = signer()
    assert holds(verify(raw_report(), chain(vendor)[:1], vendor.roots).values())
    assert holds(verify(raw_report(), chain(vendor)[::-1], bare(vendor)).values())


def test_what_is_no_certificate_is_passed_by() -> None:
    vendor = signer()
    assert holds(verify(raw_report(), [b"", b"CRL", *chain(vendor), b"\x30\x80"], bare(vendor)).values())


def test_pem_is_as_good_as_der() -> None:
    vendor = signer()
    assert holds(verify(raw_report(), [authority.pem(*vendor.certificates.values())], bare(vendor)).values())


@pytest.mark.parametrize("offset", range(0, 0x2A0, 7))
def test_one_flipped_bit_in_the_signed_part_is_noticed(offset: int) -> None:
    vendor, raw = signer(), raw_report()
    try:
        report = parse_report(changed(raw, offset, bytes([raw[offset] ^ 0x10])))
    except AgentError:
        return
    assert not holds(snp_chain.verify(report, chain(vendor), vendor.roots))


@pytest.mark.parametrize("offset", [0x2A0, 0x2E7, 0x2E8, 0x32F])
def test_one_flipped_bit_in_the_signature_is_noticed(offset: int) -> None:
    raw = raw_report()
    checks = verify(changed(raw, offset, bytes([raw[offset] ^ 1])), chain(signer()), signer().roots)
    assert failed(checks) == ["report signature"]


@pytest.mark.parametrize("value", [b"\0", b"\xff"])
def test_a_signature_of_nonsense_is_no_signature(value: bytes) -> None:
    raw = changed(raw_report(), 0x2A0, value * 144)
    assert failed(verify(raw, chain(signer()), signer().roots)) == ["report signature"]


def test_another_signature_algorithm_is_refused() -> None:
    raw = signer().resigned(changed(raw_report(), 0x34, b"\2"))
    checks = verify(raw, chain(signer()), signer().roots)
    assert failed(checks) == ["report signature"]
    assert "algorithm 2" in checks["report signature"].detail


def test_levels_that_are_not_certified_are_refused_one_by_one() -> None:
    vendor = signer()
    for at, name in ((0, "bootloader"), (1, "tee"), (6, "snp"), (7, "microcode")):
        raw = vendor.resigned(changed(raw_report(), 0x180 + at, b"\x63"))
        checks = verify(raw, chain(vendor), vendor.roots)
        assert failed(checks) == ["certified TCB"]
        assert checks["certified TCB"].detail.startswith(f"{name} 99 reported")
    turin = signer("Turin")
    checks = verify(turin.resigned(changed(raw_report("Turin"), 0x180, b"\1")), chain(turin), turin.roots)
    assert checks["certified TCB"].detail == "fmc 1 reported, 0 certified"


def test_only_the_reported_tcb_is_certified() -> None:
    vendor = signer()
    raw = raw_report()
    for offset in (0x38, 0x1E0, 0x1F0):
        raw = vendor.resigned(changed(raw, offset, b"\x63"))
    assert holds(verify(raw, chain(vendor), vendor.roots).values())


def test_another_chip_is_refused() -> None:
    for generation in ("Genoa", "Turin"):
        vendor = signer(generation)
        raw = vendor.resigned(changed(raw_report(generation), 0x1A0, b"\xee"))
        assert failed(verify(raw, chain(vendor), vendor.roots)) == ["chip id"]


def test_on_turin_the_rest_of_the_chip_id_is_zero() -> None:
    vendor = signer("Turin")
    raw = vendor.resigned(changed(raw_report("Turin"), 0x1A8, b"\1"))
    assert failed(verify(raw, chain(vendor), vendor.roots)) == ["chip id"]


def test_a_masked_chip_id_is_noted() -> None:
    vendor = signer()
    raw = vendor.resigned(changed(raw_report(), 0x1A0, bytes(64)))
    checks = verify(raw, chain(vendor), vendor.roots)
    assert holds(checks.values())
    assert "masked" in checks["chip id"].detail


# --- certificates with other extensions -------------------------------------------------------------


class Vendor:
    """Signs with extensions of the test's choice."""

    def __init__(self, extensions: dict[str, bytes], subject: str = "SEV-VCEK") -> None:
        self.ark_key, self.ask_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.ark = authority.certify("ARK-T", self.ark_key, ("ARK-T", self.ark_key), ca=True)
        self.ask = authority.certify("SEV-T", self.ask_key, ("ARK-T", self.ark_key), ca=True)
        self.vek = authority.certify(
            subject, self.key, ("SEV-T", self.ask_key), ca=False,
            extensions=[authority.extension(f"{ARC}.{arc}", value) for arc, value in extensions.items()],
        )  # fmt: skip
        self.roots = Roots(frozenset({authority.pin(self.ark)}), frozenset(), frozenset())

    def sign(self, raw: bytes) -> bytes:
        r, s = authority.ecdsa(self.key, raw[:0x2A0], hashes.SHA384())
        return changed(raw, 0x2A0, r.to_bytes(72, "little") + s.to_bytes(72, "little"))

    def checks(self, raw: bytes) -> dict[str, Check]:
        return verify(
            self.sign(raw), [authority.der(each) for each in (self.vek, self.ask, self.ark)], self.roots
        )


def extensions(**other: bytes | None) -> dict[str, bytes]:
    found: dict[str, bytes | None] = {
        "2": b"\x16\x05Genoa",
        "3.1": authority.integer(10),
        "3.2": authority.integer(0),
        "3.3": authority.integer(23),
        "3.8": authority.integer(217),
        "4": signer().chip_id,
    }
    found |= {name[1:].replace("_", "."): value for name, value in other.items()}
    return {arc: value for arc, value in found.items() if value is not None}


def test_a_hardware_id_may_be_wrapped() -> None:
    assert holds(Vendor(extensions(x4=authority.octets(signer().chip_id))).checks(raw_report()).values())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        signer().chip_id[:8],
        signer().chip_id + b"\0",
        authority.octets(authority.octets(signer().chip_id)),
    ],
)
def test_a_hardware_id_of_another_form_is_another_chip(value: bytes) -> None:
    assert failed(Vendor(extensions(x4=value)).checks(raw_report())) == ["chip id"]


def test_a_certificate_without_a_hardware_id_is_bound_to_no_chip() -> None:
    assert holds(Vendor(extensions(x4=None)).checks(raw_report()).values())


@pytest.mark.parametrize(
    "value",
    [
        None,  # not there
        b"",
        b"\x02\x01\xd9",  # -39
        b"\x04\x01\xd9",  # no INTEGER
        b"\x02\x02\x00\xd9\x00",  # more than one value
        b"\x02\x05\x00",  # cut short
        b"\x02\x02\x01\xd9",  # 473
        b"\xd9",
        b"\x00\x00\xd9",
    ],
)
def test_a_level_is_an_integer_in_der_or_it_certifies_nothing(value: bytes | None) -> None:
    assert failed(Vendor(extensions(x3_8=value)).checks(raw_report())) == ["certified TCB"]


def test_a_key_on_another_curve_signs_nothing() -> None:
    vendor = Vendor(extensions())
    vendor.vek = authority.certify(
        "SEV-VCEK", ec.generate_private_key(ec.SECP256R1()), ("SEV-T", vendor.ask_key), ca=False,
        extensions=[authority.extension(f"{ARC}.{arc}", value) for arc, value in extensions().items()],
    )  # fmt: skip
    assert failed(vendor.checks(raw_report())) == ["report signature"]


def test_of_several_certificates_the_one_that_signed_is_taken() -> None:
    vendor, other = signer(), Vendor(extensions())
    leaf = authority.der(other.vek)
    assert holds(verify(raw_report(), [leaf, *chain(vendor)], vendor.roots).values())


def test_an_end_certificate_must_not_extend_the_chain() -> None:
    vendor = Vendor(extensions())
    vendor.ask = authority.certify("SEV-T", vendor.ask_key, ("ARK-T", vendor.ark_key), ca=False)
    assert failed(vendor.checks(raw_report())) == ["certificate chain"]


# --- chains that do not end where they should -------------------------------------------------------


def test_a_root_of_somebody_else_is_refused() -> None:
    checks = verify(raw_report(), chain(signer()), VENDOR)
    assert failed(checks) == ["certificate chain"]
    assert "ARK-Genoa, which is not trusted" in checks["certificate chain"].detail


def test_a_root_of_the_same_name_is_refused() -> None:
    vendor = signer()
    key = rsa.generate_private_key(65537, 2048)
    forged = authority.certify("ARK-Genoa", key, ("ARK-Genoa", key), ca=True)
    checks = verify(raw_report(), [*chain(vendor)[:2], authority.der(forged)], bare(vendor))
    assert failed(checks) == ["certificate chain"]
    assert checks["certificate chain"].detail == "ARK-Genoa does not vouch for SEV-Genoa"


def test_a_root_with_one_flipped_bit_is_refused() -> None:
    vendor = signer()
    *others, ark = chain(vendor)
    flipped = ark[:-1] + bytes([ark[-1] ^ 1])
    assert failed(verify(raw_report(), [*others, flipped], vendor.roots)) == ["certificate chain"]


@pytest.mark.parametrize(
    ("given", "missing"),
    [(1, "SEV-Genoa is missing, which issued SEV-VCEK"), (2, "ARK-Genoa is missing, which issued SEV-Genoa")],
)
def test_an_issuer_that_is_not_at_hand_is_named_with_its_place(given: int, missing: str) -> None:
    checks = verify(raw_report(), chain(signer())[:given], bare(signer()))
    found = checks["certificate chain"]
    assert found.passed is None
    assert found.detail == f"{missing}; get it at https://kdsintf.amd.com/vcek/v1/Genoa/cert_chain"
    assert not holds(checks.values())


def test_for_version_2_the_issuer_tells_the_product() -> None:
    found = verify(raw_report(version=2), chain(signer())[:1], bare(signer()))["certificate chain"]
    assert found.detail.endswith("/vcek/v1/Genoa/cert_chain")


def test_without_a_certificate_nothing_holds_and_the_key_server_is_named() -> None:
    checks = verify(raw_report(), [], VENDOR)
    assert [each.passed for each in checks.values()] == [None] * 5
    url = f"https://kdsintf.amd.com/vcek/v1/Genoa/{signer().chip_id.hex()}"
    assert checks["signing key"].detail == (
        f"VCEK is missing; get it at {url}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=217"
    )


def test_turins_key_is_asked_for_by_8_bytes_and_with_fmc_first() -> None:
    url = snp_chain.vcek_url(parse_report(raw_report("Turin")))
    identity = signer("Turin").chip_id[:8].hex()
    assert url == (
        f"https://kdsintf.amd.com/vcek/v1/Turin/{identity}?fmcSPL=00&blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=217"
    )


def test_a_masked_chip_cannot_be_asked_for() -> None:
    raw = changed(raw_report(), 0x1A0, bytes(64))
    assert snp_chain.vcek_url(parse_report(raw)) is None
    assert "masked" in verify(raw, [], VENDOR)["signing key"].detail


def test_a_vlek_comes_from_the_host_only() -> None:
    found = verify(raw_report("Milan", vlek=True), chain(signer("Milan")), VENDOR)["signing key"]
    assert found.passed is None
    assert found.detail.startswith("VLEK is missing, VCEK is at hand; only the host")


def test_a_report_that_nothing_signed_is_refused() -> None:
    raw = changed(raw_report(), 0x48, b"\x1c")
    checks = verify(raw, chain(signer()), signer().roots)
    assert checks["signing key"].passed is False
    assert not holds(checks.values())


# --- recorded on real hardware ----------------------------------------------------------------------


@pytest.mark.vectors
@pytest.mark.parametrize(
    ("report", "leaf"), [("test-report.bin", "test-vcek.der"), ("test-vlek-report.bin", "test-vlek.der")]
)
def test_recorded_reports_hold(report: str, leaf: str) -> None:
    amd = recorded("snp/milan_ask_ark_asvk.pem")
    roots = replace(VENDOR, certificates=(amd,))
    raw = recorded(f"snp/{report}")
    assert holds(verify(raw, [recorded(f"snp/{leaf}")], roots).values())
    assert holds(verify(raw, [recorded(f"snp/{leaf}"), amd], VENDOR).values())
    single = tuple(authority.der(each) for each in x509.load_pem_x509_certificates(amd))
    assert holds(verify(raw, [recorded(f"snp/{leaf}")], replace(VENDOR, certificates=single)).values())


@pytest.mark.vectors
def test_the_recorded_false_certificate_is_refused() -> None:
    roots = replace(VENDOR, certificates=(recorded("snp/milan_ask_ark_asvk.pem"),))
    checks = verify(recorded("snp/test-report.bin"), [recorded("snp/test-vcek-invalid-new.der")], roots)
    assert failed(checks) == ["certificate chain", "report signature", "certified TCB", "chip id"]
    assert checks["chip id"].detail.endswith("3c3d3e3f certified")  # read through its OCTET STRING


@pytest.mark.vectors
def test_every_flipped_byte_of_a_recorded_report_is_noticed() -> None:
    raw, leaf = recorded("snp/test-report.bin"), [recorded("snp/test-vcek.der")]
    passed = 0
    for offset in range(0x2A0):
        try:
            report = parse_report(changed(raw, offset, bytes([raw[offset] ^ 1 << offset % 8])))
        except AgentError:
            continue
        passed += bool(by_name(snp_chain.verify(report, leaf, VENDOR))["report signature"].passed)
    assert passed == 0


@pytest.mark.vectors
def test_azures_recorded_report_holds() -> None:
    raw = recorded("az-snp-vtpm/hcl-report.bin")[32 : 32 + 1184]
    assert holds(verify(raw, [recorded("az-snp-vtpm/vcek.pem")], VENDOR).values())


@pytest.mark.vectors
@pytest.mark.parametrize("generation", ["milan", "genoa", "turin"])
def test_the_pinned_roots_are_amds(generation: str) -> None:
    ask, ark, asvk = x509.load_pem_x509_certificates(recorded(f"snp/{generation}_ask_ark_asvk.pem"))
    assert certs.key_pin(ark) in VENDOR.amd
    assert certs.path(ask, [ark], VENDOR.amd) == (ask, ark)
    assert certs.path(asvk, [ark], VENDOR.amd) == (asvk, ark)
