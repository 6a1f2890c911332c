"""What an event may say (attesters.md 17.5)."""

from __future__ import annotations

from agent.config import limits
from agent.errors import AgentError, ErrorCode

_BROKEN_LINE = frozenset("\r\n\0")


def check(domain: str, operation: str, content: str) -> None:
    """Refuse an event whose line in the log could be read in two ways.

    Args:
        domain: printable and without white space, so that the first two spaces end domain and operation.
        operation: same.
        content: one line; may be empty.

    Raises:
        AgentError: INVALID_REQUEST; PAYLOAD_TOO_LARGE above ``limits.RUNTIME_EVENT_MAX`` bytes together. The
            detail names the member, never its content.
    """
    size = 0
    for name, text in (("domain", domain), ("operation", operation), ("content", content)):
        try:
            size += len(text.encode())
        except UnicodeEncodeError:
            raise _refused(name, "is not UTF-8") from None
    # T-TEE-22: bounded before anything is extended.
    if size > limits.RUNTIME_EVENT_MAX:
        detail = f"the event has {size} bytes, more than {limits.RUNTIME_EVENT_MAX}"
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, detail)
    for name, word in (("domain", domain), ("operation", operation)):
        # T-TEE-23: "a b" + "c" and "a" + "b c" would be one line, and one digest.
        if not word or not word.isprintable() or " " in word:
            raise _refused(name, "is empty, or has white space or unprintable characters")
    if not _BROKEN_LINE.isdisjoint(content):
        raise _refused("content", "is more than one line, or has a NUL")


def _refused(name: str, reason: str) -> AgentError:
    return AgentError(ErrorCode.INVALID_REQUEST, f"event: {name} {reason}")
