"""coco-agent: guest-side attestation agent and Confidential Data Hub."""

from __future__ import annotations

__version__ = "0.1.0"
