"""SGX and TDX quotes, versions 3 (SGX), 4 and 5 (attesters.md 18.3, 18.4; Intel DCAP quote library)."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from agent.tee.evidence.reader import Reader

WHAT: Final = "quote"
SGX: Final = 0
TDX: Final = 0x81

BODY_SGX: Final = 1
BODY_TD10: Final = 2
BODY_TD15: Final = 3
BODY_SIZES: Final = {BODY_SGX: 384, BODY_TD10: 584, BODY_TD15: 648}
"""Bytes of a body by its type in a version 5 quote."""

MAX_SIZE: Final = 64 * 1024
"""Bytes of a quote; real ones have about 5 KiB, the kernel's buffer ends at 16 (attesters.md 3.1)."""

INTEL_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Vendor id of Intel's quoting enclaves."""

ECDSA_P256: Final = 2
QE_REPORT_DATA: Final = 6
"""Certification data that wraps the QE report and the certification data proper."""
PCK_CHAIN: Final = 5
"""Certification data: PEM certificates, leaf first."""

TD_ATTRIBUTES: Final = {
    "debug": 1 << 0,
    "septve_disable": 1 << 28,
    "protection_keys": 1 << 30,
    "key_locker": 1 << 31,
    "perfmon": 1 << 63,
}
"""Bits of a TD's attributes, by the verifier's names (attesters.md 18.3, 21.3)."""


class TdBody(msgspec.Struct, frozen=True):
    """What a quote says of a TD; byte fields as they are in the quote.

    Attributes:
        tee_tcb_svn: 16 bytes.
        mrseam: 48 bytes, measurement of the TDX module.
        mrsignerseam: 48 bytes, zero for Intel's module.
        seam_attributes: 8 bytes.
        td_attributes: 8 bytes, see TD_ATTRIBUTES.
        xfam: 8 bytes.
        mrtd: 48 bytes, the initial measurement.
        mrconfigid: 48 bytes, the init-data digest.
        mrowner: 48 bytes.
        mrownerconfig: 48 bytes.
        rtmrs: four times 48 bytes.
        report_data: 64 bytes.
        tee_tcb_svn2: 16 bytes; None before TD 1.5.
        mrservicetd: 48 bytes; None before TD 1.5.
    """

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mrservicetd: bytes | None = None

    @property
    def debug(self) -> bool:
        """Whether the host can read this TD's memory."""
        return td_flags(self.td_attributes)["debug"]


class SgxBody(msgspec.Struct, frozen=True):
    """An SGX report body, 384 bytes (attesters.md 18.4); also of the quoting enclave.

    Attributes:
        cpu_svn: 16 bytes.
        misc_select: integer.
        isv_ext_prod_id: 16 bytes.
        attributes: 16 bytes, flags and XFRM.
        mr_enclave: 32 bytes.
        mr_signer: 32 bytes.
        config_id: 64 bytes, the init-data digest.
        isv_prod_id: integer.
        isv_svn: integer.
        config_svn: integer.
        isv_family_id: 16 bytes.
        report_data: 64 bytes.
    """

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @property
    def debug(self) -> bool:
        """Whether the host can read this enclave's memory (bit 1 of the flags)."""
        return bool(self.attributes[0] & 2)


class Quote(msgspec.Struct, frozen=True):
    """A parsed quote.

    Attributes:
        version: 3, 4 or 5.
        key_type: 2, ECDSA P-256; others are refused.
        tee_type: SGX or TDX.
        reserved: 4 bytes; in version 3 the SVNs of QE and PCE.
        vendor_id: 16 bytes.
        user_data: 20 bytes.
        body_type: BODY_SGX, BODY_TD10 or BODY_TD15; made up for versions that do not say it.
        body: what is attested.
        signed: the bytes under ``signature``.
        signature: 64 bytes, r and s big-endian.
        attestation_key: 64 bytes, x and y big-endian, P-256.
        qe_report: 384 bytes, the quoting enclave's report body.
        qe_signature: 64 bytes, by the PCK, over ``qe_report``.
        auth: the quoting enclave's authentication data.
        certification_type: PCK_CHAIN, or 1 to 4 for a PCK that is only named.
        chain_pem: the PCK's chain, leaf first; empty for another certification type.
        size: bytes of the quote without trailing zeros of its buffer.
    """

    version: int
    key_type: int
    tee_type: int
    reserved: bytes
    vendor_id: bytes
    user_data: bytes
    body_type: int
    body: TdBody | SgxBody
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    auth: bytes
    certification_type: int
    chain_pem: bytes
    size: int

    @property
    def report_data(self) -> bytes:
        """The body's 64 bytes."""
        return self.body.report_data

    @property
    def init_data(self) -> bytes:
        """Where init-data is bound: MRCONFIGID (48 bytes) or CONFIGID (64)."""
        return self.body.mrconfigid if isinstance(self.body, TdBody) else self.body.config_id

    @property
    def quoting_enclave(self) -> SgxBody:
        """``qe_report``, parsed."""
        return parse_sgx_body(self.qe_report)

    @property
    def key_binding(self) -> bytes:
        """The report data that the quoting enclave must have: it vouches for the attestation key."""
        return hashlib.sha256(self.attestation_key + self.auth).digest().ljust(64, b"\0")


class _Signature(msgspec.Struct, frozen=True):
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    auth: bytes
    certification_type: int
    chain_pem: bytes


def parse_quote(data: bytes) -> Quote:
    """A quote, with or without the zeros that fill its buffer.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    reader = Reader(data, WHAT)
    if len(data) > MAX_SIZE:
        raise reader.wrong(f"{len(data)} bytes, more than {MAX_SIZE}")
    version, key_type, tee_type = reader.u16("version"), reader.u16("key type"), reader.u32("TEE type")
    if version not in {3, 4, 5}:
        raise reader.wrong(f"version {version}; 3, 4 and 5 are known")
    if key_type != ECDSA_P256:
        raise reader.wrong(f"attestation key type {key_type}; 2 (ECDSA P-256) is known")
    if tee_type not in ({SGX} if version == 3 else {SGX, TDX}):
        raise reader.wrong(f"TEE type {tee_type:#x} in version {version}")
    reserved, vendor = reader.take(4, "reserved"), reader.take(16, "vendor id")
    user_data = reader.take(20, "user data")
    body_type = _body_type(reader, version, tee_type)
    raw = reader.take(BODY_SIZES[body_type], "body")
    signed = data[: reader.at]
    section = reader.take(reader.u32("signature size"), "signature")
    size = reader.at
    _only_zeros(reader)
    parts = _parse_signature(section, wrapped=version > 3)
    return Quote(
        version=version,
        key_type=key_type,
        tee_type=tee_type,
        reserved=reserved,
        vendor_id=vendor,
        user_data=user_data,
        body_type=body_type,
        body=parse_sgx_body(raw) if body_type == BODY_SGX else _parse_td_body(raw),
        signed=signed,
        signature=parts.signature,
        attestation_key=parts.attestation_key,
        qe_report=parts.qe_report,
        qe_signature=parts.qe_signature,
        auth=parts.auth,
        certification_type=parts.certification_type,
        chain_pem=parts.chain_pem,
        size=size,
    )


def _body_type(reader: Reader, version: int, tee_type: int) -> int:
    if version < 5:
        return BODY_SGX if tee_type == SGX else BODY_TD10
    body_type, size = reader.u16("body type"), reader.u32("body size")
    # T-TEE-15: a type that disagrees with size or TEE would have other bytes read as the measurement.
    if BODY_SIZES.get(body_type) != size or (body_type == BODY_SGX) != (tee_type == SGX):
        raise reader.wrong(f"body type {body_type} of {size} bytes for TEE type {tee_type:#x}")
    return body_type


def _parse_signature(section: bytes, *, wrapped: bool) -> _Signature:
    reader = Reader(section, f"{WHAT} signature")
    signature, key = reader.take(64, "signature"), reader.take(64, "attestation key")
    if wrapped:
        kind, size = reader.u16("certification type"), reader.u32("certification size")
        if kind != QE_REPORT_DATA:
            raise reader.wrong(f"certification data of type {kind}; 6 belongs there")
        content = reader.take(size, "certification data")
        _only_zeros(reader)
        reader = Reader(content, f"{WHAT} certification data")
    qe_report, qe_signature = reader.take(384, "QE report"), reader.take(64, "QE signature")
    auth = reader.take(reader.u16("authentication size"), "authentication data")
    kind = reader.u16("certification type")
    certification = reader.take(reader.u32("certification size"), "certification data")
    _only_zeros(reader)
    if not 1 <= kind <= PCK_CHAIN:
        raise reader.wrong(f"certification data of type {kind}; 1 to 5 belong there")
    return _Signature(
        signature, key, qe_report, qe_signature, auth, kind, certification if kind == PCK_CHAIN else b""
    )


def _only_zeros(reader: Reader) -> None:
    at = reader.at
    # T-TEE-16: bytes behind the quote are under no signature; only a buffer's fill is let through.
    if any(reader.rest()):
        raise reader.wrong(f"other bytes than zeros behind offset {at}")


def _parse_td_body(raw: bytes) -> TdBody:
    reader = Reader(raw, f"{WHAT} body")
    return TdBody(
        tee_tcb_svn=reader.take(16),
        mrseam=reader.take(48),
        mrsignerseam=reader.take(48),
        seam_attributes=reader.take(8),
        td_attributes=reader.take(8),
        xfam=reader.take(8),
        mrtd=reader.take(48),
        mrconfigid=reader.take(48),
        mrowner=reader.take(48),
        mrownerconfig=reader.take(48),
        rtmrs=(reader.take(48), reader.take(48), reader.take(48), reader.take(48)),
        report_data=reader.take(64),
        tee_tcb_svn2=reader.take(16) if reader.left else None,
        mrservicetd=reader.take(48) if reader.left else None,
    )


def parse_sgx_body(raw: bytes) -> SgxBody:
    """A report body of an enclave, 384 bytes.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    reader = Reader(raw, "SGX report body")
    if len(raw) != BODY_SIZES[BODY_SGX]:
        raise reader.wrong(f"{len(raw)} bytes instead of 384")
    cpu_svn, misc_select = reader.take(16), reader.u32()
    reader.skip(12)
    isv_ext_prod_id, attributes, mr_enclave = reader.take(16), reader.take(16), reader.take(32)
    reader.skip(32)
    mr_signer = reader.take(32)
    reader.skip(32)
    config_id = reader.take(64)
    isv_prod_id, isv_svn, config_svn = reader.u16(), reader.u16(), reader.u16()
    reader.skip(42)
    return SgxBody(
        cpu_svn=cpu_svn,
        misc_select=misc_select,
        isv_ext_prod_id=isv_ext_prod_id,
        attributes=attributes,
        mr_enclave=mr_enclave,
        mr_signer=mr_signer,
        config_id=config_id,
        isv_prod_id=isv_prod_id,
        isv_svn=isv_svn,
        config_svn=config_svn,
        isv_family_id=reader.take(16),
        report_data=reader.take(64),
    )


def td_flags(attributes: bytes) -> dict[str, bool]:
    """A TD's attributes (8 bytes) by name."""
    value = int.from_bytes(attributes, "little")
    return {name: bool(value & bit) for name, bit in TD_ATTRIBUTES.items()}
