"""What may be written where the host can read it.

The guest's stderr usually ends on a console that belongs to the untrusted host (user_pains.md row 18, SR-04,
SR-27). Names of resources and addresses are therefore shown only if the operator asked for it, and text from
elsewhere is searched for the shapes of tokens and keys, as a second line of defence.
"""

from __future__ import annotations

import hashlib
import os
import re
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from agent.errors import AgentError
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_PROCESS_KEY: Final = os.urandom(32)

MAX_SCRUBBED: Final = 16 * 1024
"""Characters of one text that are looked at; the rest is dropped, never passed on unread."""

_SHOWABLE: Final = re.compile(
    r"kbs(?:\+[A-Za-z0-9+.-]{1,32})?://[A-Za-z0-9.:\[\]-]{0,128}/[A-Za-z0-9._/%-]{1,256}"
)

_SECRETS: Final = re.compile(
    r"-----BEGIN [^-]*-----.*?(?:-----END [^-]*-----|\Z)"  # PEM, also cut off
    r"|\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)*"  # JWT, JWS, JWE: base64url of '{"'
    r"|\bsealed\.[A-Za-z0-9._-]+"
    r"|\b(?:bearer|basic)\s+\S+"
    r"|\b(?:kbs-session-id|password|passwd|secret|token|tee_keypair)\"?\s*(?:=|:\s*\")\s*\S+"
    r"|\b(?:authorization|cookie)\s*:\s*[^\n]+",
    re.DOTALL | re.IGNORECASE,
)
_URL: Final = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,31})://([^\s\"'<>]+)")
_OWN_ADDRESS: Final = re.compile(r"(?:127(?:\.\d{1,3}){3}|\[::1\]|localhost)(?::\d{1,5})?/?")
_RESOURCE_PATH: Final = re.compile(r"(?<=/resource/)[^\s\"'<>]+|(?<![\w./:-])[\w.-]+/[\w.-]+/[\w./-]*\w")
_DEEPEST_FRAMES: Final = 8


class ResourceNames:
    """Shows resource names, or a short keyed digest in their place.

    The digest lets lines of one process be matched with each other. Its key is random and never leaves the
    process, so a name cannot be guessed from it.

    Args:
        shown: ``observe.log_resource_names``.
        key: 32 bytes; one random key per process unless given.
    """

    def __init__(self, shown: bool, key: bytes | None = None) -> None:  # noqa: FBT001 - one switch, its only one
        self.shown = shown
        self._key = _PROCESS_KEY if key is None else key

    def digest(self, data: bytes | str) -> str:
        """``#`` and 12 hexadecimal digits that stand for ``data`` in this process."""
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        # T-LOG-2: keyed, or the host could try a dictionary of likely names.
        return "#" + hashlib.blake2s(raw, key=self._key, digest_size=6).hexdigest()

    def show(self, uri: str) -> str:
        """A resource URI for a log line.

        A query (plugins take parameters there) is never shown, and neither is what does not look like a
        resource URI: it may be anything, such as a secret in the wrong argument.
        """
        name = uri.split("?", 1)[0].split("#", 1)[0]
        if self.shown and _SHOWABLE.fullmatch(name):
            return name
        return self.digest(uri)

    def hide(self, uri: str, text: str) -> str:
        """``text`` with the resource's URI and path replaced, unless names are shown."""
        if self.shown:
            return text
        path = uri.partition("://")[2].lstrip("/")
        for name in (uri, path, path.split("?", 1)[0]):
            if len(name) > 2:
                text = text.replace(name, self.digest(uri))
        return text

    def scrub(self, text: str) -> str:
        """``text`` without what looks like a secret, and without names and addresses unless they are shown.

        Args:
            text: any; only the first ``MAX_SCRUBBED`` characters are kept.
        """
        # T-LOG-3: patterns run in linear time over a bounded text.
        text = _SECRETS.sub("***", text[:MAX_SCRUBBED])
        text = _URL.sub(self._url, text)
        return text if self.shown else _RESOURCE_PATH.sub(lambda found: self.digest(found[0]), text)

    def _url(self, found: re.Match[str]) -> str:
        scheme, rest = found[1], found[2]
        if scheme == "unix" or _OWN_ADDRESS.fullmatch(rest):
            return found[0]  # our own sockets: fixed places, known to everybody
        if not self.shown:
            return f"{scheme}://{self.digest(rest)}"
        authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def locations(error: BaseException) -> str:
    """Where an exception came from: ``file:line function`` of the deepest frames, deepest first.

    Never its text, its arguments or source lines (T-LOG-1).
    """
    frames = [f"{_short(frame)}:{line} {frame.f_code.co_name}" for frame, line in _walk(error)]
    return " < ".join(islice(reversed(frames), _DEEPEST_FRAMES))


def _walk(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _short(frame: FrameType) -> str:
    return "/".join(frame.f_code.co_filename.split("/")[-2:])


def safe_argument(value: object) -> object:
    """A log argument that cannot hold more than it seems.

    Numbers and text pass; bytes become their length; exceptions become their type, because their text is
    often what was being processed; AgentError keeps its text, which by contract holds no secret.
    """
    # T-LOG-4: a line like log.info("got %s", body) must not print the body.
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, BaseException):
        return str(value) if isinstance(value, AgentError) else type(value).__name__
    if value is None or isinstance(value, str | int | float | bool | Secret):
        return value
    if isinstance(value, PurePath):
        return str(value)
    return f"<{type(value).__name__}>"
