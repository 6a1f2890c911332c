"""``vault``: HashiCorp Vault and OpenBao; secrets of KV version 2, keys of transit (docs/backends.md)."""

from __future__ import annotations

from agent.hub.kms.vault.backend import BACKEND

__all__ = ["BACKEND"]
