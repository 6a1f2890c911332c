"""What of aiohttp serves, below its router and its application.

``aiohttp.web`` would bring these, and with them routes, files, middlewares and runners: 1.2 MiB in the guest
that nobody uses.
"""

from __future__ import annotations

import agent.http  # noqa: F401  # first: it imports aiohttp without the CA bundle

# isort: split
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

__all__ = ["BaseRequest", "RequestHandler", "RequestPayloadError", "Response", "Server", "StreamResponse"]
