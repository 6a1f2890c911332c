"""Secrets of KV version 2 and keys of transit."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import standard_decode, standard_encode
from agent.hub.kms.answers import decoded
from agent.hub.kms.base import Backend, read_annotations
from agent.hub.kms.credentials import Hidden
from agent.hub.kms.vault.session import Auth, Session
from agent.hub.kms.vault.wire import (
    SERVICE,
    Answer,
    Service,
    TokenRefusedError,
    check_namespace,
    encode_path,
    invalid,
    read,
)
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.hub.kms.base import Context

_CIPHERTEXT: Final = re.compile(r"vault:v[1-9][0-9]{0,9}:[A-Za-z0-9+/]+={0,2}", re.ASCII)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_OWN: Final = frozenset({"sys", "auth", "identity", "cubbyhole"})
_CONTEXT_SIZE: Final = 32


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``provider_settings``.

    Attributes:
        address: base URL, one of ``kms.endpoints``.
        namespace: of the tenant; empty: none.
        mount: where the engine is mounted, when that has a slash in it; names begin with it all the same.
        auth: how to log in.
    """

    address: str
    namespace: str = ""
    mount: str = ""
    auth: Auth = Auth()


class _Get(msgspec.Struct, frozen=True):
    version: int | str | None = None
    encoding: str = "text"


class _Crypt(msgspec.Struct, frozen=True):
    context: str = ""


class _Stored(Hidden, frozen=True):
    data: msgspec.Raw


class _Plain(Hidden, frozen=True):
    plaintext: str


class _Cipher(msgspec.Struct, frozen=True):
    ciphertext: str


class Vault:
    """A Getter, Decrypter and Encrypter; see docs/backends.md."""

    def __init__(self, settings: Settings, context: Context) -> None:
        """Prepare; nothing is asked.

        Raises:
            AgentError: KMS_SETTINGS_INVALID, KMS_ENDPOINT_REFUSED.
        """
        namespace = check_namespace(settings.namespace)
        # T-KMS-33: the address comes with the secret; the token only goes where the configuration says.
        self._service = Service(context.http, context.http.allowed(settings.address), namespace)
        self._mount = settings.mount
        self._session = Session(self._service, settings.auth, context)

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`.

        Args:
            name: ``<mount>/<path>#<field>``; without ``#<field>`` all fields as a JSON object.
            annotations: ``version``: a number from 1 on; ``encoding``: ``base64`` for bytes stored as text.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: KMS_*, DEADLINE_EXCEEDED, or why the broker did not hand out the credentials.
        """
        wanted = read_annotations(annotations, _Get, SERVICE)
        if wanted.encoding not in {"text", "base64"}:
            raise invalid("the annotation encoding is neither text nor base64")
        path, hash_mark, field = name.partition("#")
        if hash_mark and not field:
            raise invalid("the name has no field after '#'")
        mount, rest = self._split(path, "the name")
        answer = await self._ask("GET", f"{mount}/data/{rest}{_query(wanted.version)}", deadline)
        stored = read(answer.data, _Stored, "the secret").data
        value = _field(stored, field) if field else _object(stored)
        if wanted.encoding == "base64":
            return decoded(value.decode("utf-8").strip(), SERVICE, "the value")
        return Secret(value)

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Decrypter.decrypt`.

        Args:
            ciphertext: ``vault:v<version>:<base64>``.
            key_id: ``<mount>/<key>``.
            annotations: ``context``: base64, for derived keys.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: KMS_*, DEADLINE_EXCEEDED, or why the broker did not hand out the credentials.
        """
        body = {"ciphertext": _text(ciphertext), **_context(annotations)}
        mount, key = self._split(key_id, "the key id")
        answer = await self._ask("POST", f"{mount}/decrypt/{key}", deadline, body)
        return decoded(read(answer.data, _Plain, "the plaintext").plaintext, SERVICE, "the plaintext")

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        """See :meth:`agent.hub.kms.base.Encrypter.encrypt`.

        A derived key gets a random context of 32 bytes, which becomes the annotation ``context``.

        Raises:
            AgentError: KMS_*, DEADLINE_EXCEEDED, or why the broker did not hand out the credentials.
        """
        mount, key = self._split(key_id, "the key id")
        known = await self._ask("GET", f"{mount}/keys/{key}", deadline)
        derived = read(known.data, _Key, "the key").derived
        context = {"context": standard_encode(secrets.token_bytes(_CONTEXT_SIZE))} if derived else {}
        body = {"plaintext": standard_encode(plaintext.reveal()), **context}
        answer = await self._ask("POST", f"{mount}/encrypt/{key}", deadline, body)
        made = read(answer.data, _Cipher, "the ciphertext").ciphertext
        if not _CIPHERTEXT.fullmatch(made):
            raise AgentError(ErrorCode.KMS_BAD_RESPONSE, f"{SERVICE}: the ciphertext is none")
        return made.encode(), dict(context)

    def close(self) -> None:
        """Forget the token."""
        self._session.close()

    async def _ask(self, method: str, path: str, deadline: Deadline, body: object = None) -> Answer:
        token = await self._session.token(deadline)
        try:
            return await self._service.ask(method, path, deadline, token=token, body=body)
        except TokenRefusedError:
            # The service says the same of a token that ended and of one that may not.
            if not self._session.may_have_ended(token):
                raise
        again = await self._session.token(deadline, refused=token)
        return await self._service.ask(method, path, deadline, token=again, body=body)

    def _split(self, text: str, what: str) -> tuple[str, str]:
        """Mount and rest, percent-encoded."""
        mount = self._mount or text.partition("/")[0]
        if not text.startswith(f"{mount}/"):
            raise invalid(f"{what} does not begin with the mount and a slash")
        # T-KMS-34: the token may administer the service; a secret's name never leads there.
        if mount.partition("/")[0] in _OWN:
            raise invalid(f"{what} is in no mount for secrets")
        return encode_path(mount, "the mount"), encode_path(text[len(mount) + 1 :], what)


class _Key(msgspec.Struct, frozen=True):
    derived: bool = False


def _query(version: int | str | None) -> str:
    if version is None:
        return ""
    if not _VERSION.fullmatch(str(version)):
        raise invalid("the annotation version is not a number from 1 on")
    return f"?version={version}"


def _field(stored: msgspec.Raw, field: str) -> bytes:
    found = read(stored, dict[str, msgspec.Raw], "the secret's fields").get(field)
    if found is None:
        raise AgentError(ErrorCode.KMS_NOT_FOUND, f"{SERVICE}: the secret has no such field")
    # Text as it is; a number or a list as the JSON that was stored.
    return read(found, str, "the field").encode() if bytes(found)[:1] == b'"' else bytes(found)


def _object(stored: msgspec.Raw) -> bytes:
    read(stored, dict[str, msgspec.Raw], "the secret's fields")
    return bytes(stored)


def _text(ciphertext: bytes) -> str:
    text = ciphertext.decode("ascii", "replace").strip()
    if not _CIPHERTEXT.fullmatch(text):
        raise invalid("the ciphertext is not vault:v<version>:<base64>")
    return text


def _context(annotations: Mapping[str, object]) -> dict[str, str]:
    context = read_annotations(annotations, _Crypt, SERVICE).context
    if not context:
        return {}
    try:
        standard_decode(context)
    except ValueError:
        raise invalid("the annotation context is not base64") from None
    return {"context": context}


BACKEND: Final = Backend(SERVICE, Settings, Vault)
