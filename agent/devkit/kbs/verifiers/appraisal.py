"""What verifiers take and give, and how they refuse."""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from agent.devkit.kbs import wire
from agent.tee.base import regularize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.tee.evidence.verdict import Check, Roots

MAX_BLOB: Final = 256 * 1024
"""Bytes of one piece of evidence inside JSON; event logs of real machines have 64 KiB."""


class Expected(msgspec.Struct, frozen=True):
    """What evidence has to be bound to.

    Attributes:
        tee: wire string.
        report_data: digest of nonce, key and devices, unpadded.
        init_digest: of the init-data that was sent; None when there was none, and nothing is compared.
    """

    tee: str
    report_data: bytes
    init_digest: bytes | None


class Finding(msgspec.Struct, frozen=True):
    """One submodule's worth of evidence that holds.

    Attributes:
        submod_class: ``cpu``, ``gpu`` or ``switch``.
        hardware: claims below the TEE's own name.
        report_data: the claim, spelled as Trustee's verifier of this TEE does.
        init_data: the claim: what the hardware's register for init-data holds; empty for none.
    """

    submod_class: str
    hardware: Mapping[str, object]
    report_data: str
    init_data: str = ""


class Verifier(Protocol):
    """One TEE's verifier."""

    def __call__(self, evidence: bytes, expected: Expected, roots: Roots) -> tuple[Finding, ...]:
        """Check everything.

        Args:
            evidence: one JSON value.
            expected: what it has to be bound to.
            roots: where chains have to end.

        Raises:
            MalformedError: refused; the text names the check, for the server's log.
            AgentError: EVIDENCE_MALFORMED, from a parser.
        """


class Appraisal(msgspec.Struct, frozen=True):
    """One submodule of a token.

    Attributes:
        tee: wire string.
        submod_class: ``cpu``, ``gpu`` or ``switch``.
        hardware: claims below the TEE's own name.
        report_data: the claim.
        runtime: the object its report data is the digest of.
        init_data: the claim, or empty for none.
        init_claims: what init-data said; None when none was sent.
    """

    tee: str
    submod_class: str
    hardware: Mapping[str, object]
    report_data: str
    runtime: Mapping[str, object]
    init_data: str = ""
    init_claims: Mapping[str, object] | None = None


def refused(tee: str, check: str, reason: str) -> wire.MalformedError:
    """A refusal that names its check."""
    return wire.MalformedError(f"{tee}: {check}: {reason}")


def require(tee: str, checks: Iterable[Check]) -> None:
    """Refuse at the first check that does not hold; one that could not be made does not hold.

    Raises:
        MalformedError: naming it.
    """
    made = tuple(checks)
    # T-DEV-10: a check that could not be made, and no check at all, never count as passed.
    if not made:
        raise refused(tee, "signature", "nothing was checked")
    for check in made:
        if not check.passed:
            raise refused(tee, check.name, check.detail)


def bound(expected: Expected, check: str, found: bytes, wanted: bytes) -> None:
    """Compare a field of the hardware with what it has to hold, cut or padded to the field's size.

    Raises:
        MalformedError: naming the check.
    """
    if not hmac.compare_digest(found, regularize(wanted, len(found))):
        raise refused(expected.tee, check, "the evidence is bound to something else")


def bound_report_data(expected: Expected, found: bytes) -> None:
    """The report data of the hardware is the digest of nonce, key and devices.

    Raises:
        MalformedError: it is not.
    """
    bound(expected, "report data", found, expected.report_data)


def bound_init_data(expected: Expected, found: bytes) -> None:
    """The hardware's register holds the digest of the init-data that was sent; none sent, none compared.

    Raises:
        MalformedError: another digest.
    """
    if expected.init_digest is not None:
        bound(expected, "init-data", found, expected.init_digest)


def decoded(tee: str, evidence: bytes, form: type[wire.T]) -> wire.T:
    """The evidence's JSON.

    Raises:
        MalformedError: not of this form.
    """
    try:
        return wire.decode(evidence, form)
    except wire.MalformedError as error:
        raise refused(tee, "format", str(error)) from error


def from_base64(tee: str, field: str, text: str, *, url: bool = False) -> bytes:
    """A blob inside evidence, in standard base64 or the URL-safe one, with padding both.

    Raises:
        MalformedError: too long, or not base64.
    """
    # T-DEV-11: what a guest sends is bounded before it is decoded and parsed.
    if len(text) > MAX_BLOB * 4 // 3:
        raise refused(tee, field, "too long")
    try:
        return base64.b64decode(text, altchars=b"-_" if url else None, validate=True)
    except ValueError:
        raise refused(tee, field, "not base64") from None


def base64_of(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")
