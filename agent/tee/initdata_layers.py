"""What is wrong with init-data that is none: which of its layers is missing, doubled or of another kind.

In front of a pod stand templates, YAML and shells; each adds or drops a layer of base64, gzip or quotes.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from agent.config import toml

GZIP: Final = b"\x1f\x8b"
_KEY: Final = r"^[ \t-]*[\"']?[A-Za-z0-9./_-]{1,200}[\"']?[ \t]*[:=]"
_VALUE: Final = r"[ \t]*(?:[|>][+-]?\s*)?[\"']?([A-Za-z0-9+/_-]{16,}=*)"
_YAML: Final = re.compile(_KEY + _VALUE, re.MULTILINE)
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/_-]{4,}={0,2}")


def fault(content: bytes) -> str:
    """Why it is no annotation's value; empty when it resembles none, or is a document.

    Args:
        content: at most ``limits.CONFIG_MAX_FILE`` bytes.
    """
    if _is_document(content):
        return ""
    text = content.removeprefix(toml.BOM).decode("utf-8", "replace").strip()
    quoted = text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" else ""
    if quoted and _holds(quoted):
        return "it stands in quotes; the value has none"
    line = _YAML.search(text)
    if line is not None and _holds(line[1]):
        return "it is a line of YAML, key and value; give the value alone"
    return _encoding_fault(text)


def inner_fault(content: bytes) -> str:
    """Why what was unpacked is no document; empty when it may be one."""
    if content.startswith(GZIP):
        return "it is packed with gzip twice"
    if _is_document(content):
        return ""
    text = content.decode("utf-8", "replace").strip()
    return "its gzip holds base64 and not the document" if _holds(text) else ""


def _encoding_fault(text: str) -> str:
    packed = "".join(text.split())
    inner = _decoded(packed)
    if inner is None:
        return ""
    if inner.startswith(GZIP):
        if "-" in packed or "_" in packed:
            return "it is base64url; the value is standard base64"
        if len(packed) % 4:
            return "its base64 is cut short, or has no padding ('=')"
        return ""
    if _is_document(inner):
        return "it is base64 of the document; gzip is missing between them"
    again = _decoded("".join(inner.decode("utf-8", "replace").split()))
    return "it is packed in base64 twice" if again is not None and _is_content(again) else ""


def _holds(text: str) -> bool:
    """Whether an encoded text leads to a document in one way or another."""
    inner = _decoded("".join(text.split()))
    return inner is not None and (_is_content(inner) or bool(_encoding_fault(text)))


def _is_content(content: bytes) -> bool:
    return content.startswith(GZIP) or _is_document(content)


def _decoded(text: str) -> bytes | None:
    """Base64 of either alphabet, with or without padding."""
    if not _ENCODED.fullmatch(text):
        return None
    bare = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4))
    except (binascii.Error, ValueError):
        return None


def _is_document(content: bytes) -> bool:
    if b"=" not in content:
        return False
    try:
        return "version" in (tree := toml.loads(content)) or "data" in tree
    except toml.TomlError:
        return False
