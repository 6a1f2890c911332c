"""aiohttp's server, for the development kit's own servers: nothing of it is in a guest.

It parses the system's CA bundle when it is imported (about 100 ms and 2 MiB) for a default that nothing here
uses. For the moment of the import OpenSSL is pointed at an empty place.
"""

from __future__ import annotations

import logging
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
    from aiohttp import web

# T-LOG-9: access lines hold paths, which are resource names.
logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL + 1)

__all__ = ["aiohttp", "web"]
