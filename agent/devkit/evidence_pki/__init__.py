"""Throw-away vendors: sign evidence as hardware does, with roots of their own that nobody trusts.

Layouts are written down here a second time, apart from ``agent.tee.evidence``: a parser that is tested with
its own code turned round agrees with itself and proves nothing.
"""

from __future__ import annotations

from agent.devkit.evidence_pki.amd import AmdSigner, SnpState, Tcb
from agent.devkit.evidence_pki.intel import IntelSigner, TdState
from agent.devkit.evidence_pki.nvidia import NvidiaSigner
from agent.devkit.evidence_pki.vtpm import TpmSigner

__all__ = ["AmdSigner", "IntelSigner", "NvidiaSigner", "SnpState", "Tcb", "TdState", "TpmSigner"]
