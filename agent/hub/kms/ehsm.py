"""eHSM-KMS (cdh.md 5.6): keys inside an SGX enclave. Archived by its makers; for secrets that exist.

``POST {endpoint}/ehsm?Action=Decrypt``, JSON both ways, HMAC-SHA256 over the members. The service answers
``{"code", "message", "result"}`` with HTTP status 200, also when it refuses. Its certificate is verified,
unlike in the Rust client: one that is self-signed goes into ``kms.cert``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import standard_encode
from agent.hub.kms.answers import CLOCK_HINT, bad_answer, decoded, parse_answer, refused
from agent.hub.kms.base import Backend, Context
from agent.hub.kms.credentials import Hidden, parse_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.secret import Secret

MAX_TEXT: Final = 64 * 1024
"""Characters of a ciphertext; a data key has a hundred."""

_SERVICE: Final = "eHSM"
_GOOD: Final = 200
_APP: Final = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_TEXT: Final = re.compile(rb"[A-Za-z0-9+/=_-]{1,%d}" % MAX_TEXT)
_DENIED: Final = frozenset(
    {
        "appid error",
        "appid not found",
        "keyid expire",
        "keyid is disabled",
        "keyid not found",  # so it says when it does not know the application
        "missing required parameters",
        "param type error",
        "sign error",
        "timestamp can't be repeated in 20 minutes",
        "timestamp error",
        "timestamp length error",
    }
)
_MISSING: Final = frozenset({"keyid error"})
"""Messages, in lower case; the service has no codes of its own."""


class EhsmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``provider_settings``.

    Attributes:
        app_id: as the service enrolled the application.
        endpoint: ``https://<host>:<port>``, one of ``kms.endpoints``.
    """

    app_id: str
    endpoint: str


class EhsmCredential(Hidden, frozen=True, rename="pascal"):
    """``credential_<app_id>.json``.

    Attributes:
        app_id: the same.
        api_key: signs.
    """

    app_id: str
    api_key: str


class _Result(Hidden, frozen=True):
    plaintext: str | None = None
    ciphertext: str | None = None


class _Verdict(msgspec.Struct, frozen=True):
    code: int
    message: str = ""


class _Answer(Hidden, frozen=True):
    result: _Result


class Ehsm:
    """A Decrypter and Encrypter of one application."""

    def __init__(self, settings: EhsmSettings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._nonces = secrets.SystemRandom()

    async def decrypt(
        self,
        ciphertext: bytes,
        key_id: str,
        annotations: Mapping[str, object],  # noqa: ARG002  # there are none
        deadline: Deadline,
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Decrypter.decrypt`.

        ``ciphertext`` is the service's text, so in a sealed secret it is base64 of base64 (cdh.md 5.6).

        Raises:
            AgentError: KMS_*.
        """
        if not _TEXT.fullmatch(ciphertext):
            raise _settings("the ciphertext is not the service's text")
        found = await self._call("Decrypt", key_id, "ciphertext", ciphertext.decode(), deadline)
        if found.plaintext is None:
            raise bad_answer(_SERVICE, "no plaintext")
        return decoded(found.plaintext, _SERVICE, "plaintext")

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        """See :meth:`agent.hub.kms.base.Encrypter.encrypt`; there are no annotations."""
        text = standard_encode(plaintext.reveal())
        found = await self._call("Encrypt", key_id, "plaintext", text, deadline)
        ciphertext = (found.ciphertext or "").encode()
        if not _TEXT.fullmatch(ciphertext):
            raise bad_answer(_SERVICE, "no ciphertext")
        return ciphertext, {}

    async def _call(self, action: str, key_id: str, member: str, text: str, deadline: Deadline) -> _Result:
        if not _KEY.fullmatch(key_id):
            raise _settings("the key id has more than letters, digits, '_', '-' and '.'")
        # T-KMS-15: asked at each use, so a secret's address never counts, only the measured configuration.
        endpoint = self._context.http.allowed(self._settings.endpoint)
        name = f"credential_{self._settings.app_id}.json"
        content = await self._context.credentials.read("ehsm", name, deadline)
        try:
            credential = parse_credentials(content, EhsmCredential, f"ehsm/{name}")
        finally:
            content.wipe()
        if credential.app_id != self._settings.app_id:
            raise AgentError(ErrorCode.KMS_CREDENTIALS_INVALID, f"ehsm/{name}: AppId is another one")
        body: dict[str, object] = {
            "appid": credential.app_id,
            "nonce": str(self._nonces.randrange(1 << 32)),
            "payload": {"keyid": key_id, member: text},
            "timestamp": str(int(self._context.clock.wall() * 1000)),
        }
        body["sign"] = sign(body, credential.api_key)
        answer = await self._context.http.send(
            "POST",
            f"{endpoint}/ehsm?Action={action}",
            {"Content-Type": "application/json"},
            msgspec.json.encode(body),
            deadline,
        )
        if answer.status != 200:
            raise refused(answer, _SERVICE, (), {})
        said = parse_answer(answer, _Verdict, _SERVICE)
        if said.code != _GOOD:
            raise _refusal(said)
        return parse_answer(answer, _Answer, _SERVICE).result


def render(members: Mapping[str, object]) -> str:
    """Members as they are signed: ``name=value`` sorted by name, joined by ``&``, objects likewise."""
    return "&".join(
        f"{name}={render(value) if isinstance(value, dict) else value}"
        for name, value in sorted(members.items())
        if value
    )


def sign(members: Mapping[str, object], api_key: str) -> str:
    """HMAC-SHA256 of :func:`render`, in standard base64."""
    return standard_encode(hmac.digest(api_key.encode(), render(members).encode(), hashlib.sha256))


def _refusal(said: _Verdict) -> AgentError:
    # T-KMS-10: messages that are known are shown as we write them; others may repeat what was sent.
    message = said.message.lower()
    if message in _MISSING:
        return AgentError(ErrorCode.KMS_NOT_FOUND, f"{_SERVICE} says: {_shown(message, _MISSING)}")
    if message in _DENIED:
        shown = _shown(message, _DENIED) + (CLOCK_HINT if message.startswith("timestamp") else "")
        return AgentError(ErrorCode.KMS_DENIED, f"{_SERVICE} says: {shown}")
    if said.code >= 500:
        return AgentError(ErrorCode.KMS_BUSY, f"{_SERVICE} says code {min(said.code, 999)}")
    return AgentError(ErrorCode.KMS_DENIED, f"{_SERVICE} refuses, with a message that is not known")


def _shown(message: str, known: frozenset[str]) -> str:
    return next(one for one in known if one == message)


def _settings(reason: str) -> AgentError:
    return AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"ehsm: {reason}")


def _open(given: EhsmSettings, context: Context) -> Ehsm:
    if not _APP.fullmatch(given.app_id):
        raise _settings("app_id has more than letters, digits and '-'")
    return Ehsm(given, context)


BACKEND: Final = Backend("ehsm", EhsmSettings, _open)
