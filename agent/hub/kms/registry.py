"""Backends by name. Adding one is one file, and one line here."""

from __future__ import annotations

from typing import Final

BACKENDS: Final = {
    "aws": "agent.hub.kms.aws",
    "aliyun": "agent.hub.kms.aliyun",
    "ehsm": "agent.hub.kms.ehsm",
    "vault": "agent.hub.kms.vault",
    "azure": "agent.hub.kms.azure",
    "gcp": "agent.hub.kms.gcp",
}
"""Provider name, as in secrets, to the module with ``BACKEND``; loaded on first use."""
