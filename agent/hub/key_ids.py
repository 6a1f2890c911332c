"""Where the ``kid`` of a sealed secret leads, and whether this guest trusts it (cdh.md 4.4)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agent.config import limits
from agent.config.uri import ResourceUri, parse_uri
from agent.errors import AgentError, ErrorCode
from agent.files import read_beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

KID_MAX: Final = 1024
_FILE_NAME_MAX: Final = 255
_RESOURCE_SCHEME: Final = re.compile(r"kbs[:+]", re.IGNORECASE)


def resolve(kid: str) -> ResourceUri | str:
    """A resource URI, or a plain relative file name below the folder of signing keys.

    Raises:
        AgentError: SEALED_KEY_INVALID.
    """
    # T-SEAL-8: the key id comes from outside the guest; it becomes a request path or a file name.
    if not kid or len(kid) > KID_MAX or not kid.isascii() or not kid.isprintable():
        raise _bad(f"it is empty, not printable ASCII, or longer than {KID_MAX} characters")
    if _RESOURCE_SCHEME.match(kid):
        try:
            return parse_uri(kid)
        except AgentError as error:
            raise _bad(error.detail) from error
    if any(part in {"", ".", ".."} or len(part) > _FILE_NAME_MAX for part in kid.split("/")):
        raise _bad("it is neither a resource URI nor a plain file name")
    return kid


def check_trusted(key: ResourceUri | str, trusted: Sequence[str]) -> None:
    """Refuse a key that no rule lists.

    A URI is compared in its canonical spelling, with three slashes, so a host in it changes nothing.

    Args:
        key: from :func:`resolve`.
        trusted: exact key ids, or prefixes that end in ``/`` or ``*``. Empty: every key, as upstream.

    Raises:
        AgentError: SEALED_KEY_UNTRUSTED.
    """
    # T-SEAL-9: whoever can place a public key where this guest may read could otherwise sign for it.
    if trusted and not any(_matches(str(key), rule) for rule in trusted):
        raise AgentError(ErrorCode.SEALED_KEY_UNTRUSTED, "the key id is not in sealed_secret.trusted_kids")


def _matches(kid: str, rule: str) -> bool:
    if rule.endswith(("/", "*")):
        return kid.startswith(rule.removesuffix("*"))
    return kid == rule


def read_local_key(folder: str, name: str) -> bytes:
    """The JWK file ``name`` below ``folder``, at most ``limits.JWK_MAX`` bytes.

    Raises:
        AgentError: SEALED_KEY_UNKNOWN, FILE_UNSAFE.
    """
    try:
        # T-FILE-31: no link leads out of the folder, whatever the key id says.
        return read_beneath(folder, name, limits.JWK_MAX)
    except FileNotFoundError:
        detail = f"there is no such file below {folder}"
        raise AgentError(ErrorCode.SEALED_KEY_UNKNOWN, detail) from None


def _bad(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_KEY_INVALID, f"the key id cannot be used: {reason}")
