"""aiohttp without the CA bundle it would parse at import (about 100 ms and 2 MiB here).

Import aiohttp from this package only: its client from here, what serves from ``agent.devkit``. Its own
default TLS context then trusts nobody, which is the safe way round: every TLS connection of the agent names
its trust explicitly (``agent/http/tls.py``).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def _no_ca_bundle() -> Iterator[None]:
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "/nonexistent"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _no_ca_bundle():
    import aiohttp
    from yarl import URL

__all__ = ["URL", "aiohttp"]
