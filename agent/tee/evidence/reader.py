"""Reading binary structures with every bound checked."""

from __future__ import annotations

from agent.errors import AgentError, ErrorCode


def malformed(what: str, reason: str) -> AgentError:
    """EVIDENCE_MALFORMED naming the structure."""
    return AgentError(ErrorCode.EVIDENCE_MALFORMED, f"{what}: {reason}")


class Reader:
    """A cursor over bytes; what is not there is an error and never an empty value.

    Integers are little-endian unless the method says ``be``.

    Args:
        data: the whole structure; it is not copied.
        what: its name for errors, e.g. ``TDX quote``.
    """

    __slots__ = ("_data", "_what", "at")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = memoryview(data)
        self._what = what
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self.at

    def take(self, size: int, field: str = "field") -> bytes:
        """The next ``size`` bytes.

        Raises:
            AgentError: EVIDENCE_MALFORMED, fewer are left.
        """
        # T-TEE-9: a length field never makes us read or allocate more than the input holds.
        if not 0 <= size <= self.left:
            raise self.wrong(f"{field} of {size} bytes at offset {self.at}, {self.left} bytes are left")
        taken = bytes(self._data[self.at : self.at + size])
        self.at += size
        return taken

    def skip(self, size: int, field: str = "reserved") -> None:
        """Pass ``size`` bytes by."""
        if not 0 <= size <= self.left:
            raise self.wrong(f"{field} of {size} bytes at offset {self.at}, {self.left} bytes are left")
        self.at += size

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def u8(self, field: str = "field") -> int:
        """An unsigned byte."""
        return self.take(1, field)[0]

    def u16(self, field: str = "field") -> int:
        """Two bytes."""
        return int.from_bytes(self.take(2, field), "little")

    def u32(self, field: str = "field") -> int:
        """Four bytes."""
        return int.from_bytes(self.take(4, field), "little")

    def u64(self, field: str = "field") -> int:
        """Eight bytes."""
        return int.from_bytes(self.take(8, field), "little")

    def be16(self, field: str = "field") -> int:
        """Two bytes, big-endian."""
        return int.from_bytes(self.take(2, field), "big")

    def be32(self, field: str = "field") -> int:
        """Four bytes, big-endian."""
        return int.from_bytes(self.take(4, field), "big")

    def be64(self, field: str = "field") -> int:
        """Eight bytes, big-endian."""
        return int.from_bytes(self.take(8, field), "big")

    def wrong(self, reason: str) -> AgentError:
        """EVIDENCE_MALFORMED naming the structure; for the caller to raise."""
        return malformed(self._what, reason)
