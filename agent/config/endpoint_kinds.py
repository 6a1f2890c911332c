"""The kind of agent.toml's ``kbs.endpoints``."""

from __future__ import annotations

from typing import Final, cast

from agent.config import limits
from agent.config.findings import shown
from agent.config.kinds import PINS, Kind, Refused, read_items, read_pem, read_url, type_name
from agent.config.model import KbsServer

_EXAMPLE: Final = 'such as { url = "https://kbs-1.example:8080", pins = ["sha256/..."] }'


def _read_endpoints(value: object) -> tuple[KbsServer, ...]:
    items = read_items(value)
    # T-CONF-15: bounded, since a request may try each of them.
    if len(items) > limits.KBS_MAX_ENDPOINTS:
        raise Refused(f"has more than {limits.KBS_MAX_ENDPOINTS} entries")
    servers: list[KbsServer] = []
    for number, item in enumerate(items, start=1):
        try:
            servers.append(_endpoint(item))
        except Refused as error:
            raise Refused(f"entry {number} {error}", error.next_step) from None
    if len({server.url for server in servers}) != len(servers):
        raise Refused("names an endpoint twice")
    return tuple(servers)


def _endpoint(item: object) -> KbsServer:
    if not isinstance(item, dict):
        raise Refused(f"is {type_name(item)}; expected a table", _EXAMPLE)
    fields = cast("dict[str, object]", item)
    unknown = fields.keys() - {"url", "pins", "cert"}
    if unknown:
        raise Refused(f"has {shown(min(unknown))!r}, which is none of url, pins and cert", _EXAMPLE)
    url = read_url(fields.get("url", ""))
    if not url:
        raise Refused("has no url", _EXAMPLE)
    roots = read_pem(fields.get("cert", ""))
    pins = cast("tuple[bytes, ...]", PINS.read(fields.get("pins", [])))
    if roots and pins:
        raise Refused("has pins and a cert; pins decide alone", "keep one of them")
    return KbsServer(url, roots, pins)


ENDPOINTS: Final = Kind("array of tables: `url`, `pins`, `cert`", _read_endpoints)
