"""aiohttp's whole server side, for the development kit's own servers."""

from __future__ import annotations

import agent.http  # noqa: F401  # first: it imports aiohttp without the CA bundle

# isort: split
from aiohttp import web

__all__ = ["web"]
