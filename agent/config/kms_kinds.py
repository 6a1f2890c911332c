"""Kinds of values about key management services and the gRPC key provider."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, cast

from agent.config import limits, urls
from agent.config.kinds import (
    Kind,
    Refused,
    read_bind,
    read_items,
    read_resource,
    read_socket,
    read_text,
    read_url,
    wrong_type,
)

CREDENTIAL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _read_credentials(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise wrong_type("a table of names to resource URIs", value)
    entries = cast("dict[str, object]", value)
    if len(entries) > limits.CONFIG_MAX_ITEMS:
        raise Refused(f"has more than {limits.CONFIG_MAX_ITEMS} entries")
    return tuple(_credential(name, uri) for name, uri in entries.items())


def _credential(name: str, uri: object) -> tuple[str, str]:
    example = 'such as "aws/credential.json" = "kbs:///default/aws/credential"'
    if not CREDENTIAL_NAME.fullmatch(name):
        raise Refused("has a name that is not <provider>/<file>", example)
    try:
        return name, read_resource(uri)
    except Refused as refused:
        raise Refused(str(refused), example) from None


def _read_endpoints(value: object) -> tuple[str, ...]:
    items = read_items(value)
    if len(items) > limits.KMS_MAX_ENDPOINTS:
        raise Refused(f"has more than {limits.KMS_MAX_ENDPOINTS} entries")
    found = tuple(read_url(item) for item in items)
    # Credentials travel to these; only a service beside us may be without TLS.
    if any(not url or (urls.is_plain_http(url) and not urls.is_loopback(url)) for url in found):
        raise Refused("has an entry that is not an https:// URL", "such as https://vault.example:8200")
    return found


def _read_grpc(value: object) -> str:
    text = read_text(value)
    if not text:
        return ""
    if text.startswith("unix:"):
        return read_socket(text)
    host = read_bind(text).rpartition(":")[0].strip("[]")
    if not ipaddress.ip_address(host).is_loopback:
        raise Refused("is not a loopback address: the key provider answers whoever asks", "127.0.0.1:50000")
    return text


CREDENTIALS: Final = Kind("table of `<provider>/<file>` to resource URI", _read_credentials)
ENDPOINTS: Final = Kind("array of URLs", _read_endpoints)
GRPC: Final = Kind("loopback address or socket", _read_grpc)
