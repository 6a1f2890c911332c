"""Credentials of key management services: from the key broker after attestation, or from files."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agent.config import limits
from agent.config.kms_kinds import CREDENTIAL_NAME
from agent.errors import AgentError, ErrorCode
from agent.files import read_beneath
from agent.hub.encoding import read_json
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Kms
    from agent.hub.resources import Resources

T = TypeVar("T")


class Hidden(msgspec.Struct, frozen=True):
    """Base of structs that hold credentials: they do not print."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class Credentials:
    """What :class:`agent.config.model.Kms` names.

    Nothing is kept here: each use reads again, so a rotated credential counts at once. Resources are kept
    as long as the hub's cache rules say (``cache.rules``).
    """

    def __init__(self, settings: Kms, resources: Resources) -> None:
        self._folder = settings.credentials_dir
        self._uris = dict(settings.credentials)
        self._resources = resources

    async def read(self, provider: str, name: str, deadline: Deadline) -> Secret:
        """The content of ``<provider>/<name>``: 1 to ``limits.KMS_MAX_CREDENTIALS`` bytes.

        Args:
            provider: the backend's name.
            name: of the file; may hold parts of the provider's settings.
            deadline: when the caller stops waiting.

        Returns:
            The caller's own copy, to be wiped.

        Raises:
            AgentError: KMS_CREDENTIALS_MISSING, KMS_CREDENTIALS_INVALID (size), KMS_SETTINGS_INVALID
                (``name``), FILE_UNSAFE, DEADLINE_EXCEEDED, or why the broker did not hand out the resource.
        """
        entry = f"{provider}/{name}"
        # T-KMS-8: names are made of settings that come from outside; they stay names of files.
        if not CREDENTIAL_NAME.fullmatch(entry):
            raise AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"{provider}: a setting makes no name of a file")
        uri = self._uris.get(entry)
        if uri is None:
            async with deadline.limit("reading credentials"):
                content = Secret(await asyncio.to_thread(self._file, entry))
        else:
            content = await self._resource(entry, uri, deadline)
        if not 0 < len(content) <= limits.KMS_MAX_CREDENTIALS:
            size = len(content)
            content.wipe()
            raise AgentError(
                ErrorCode.KMS_CREDENTIALS_INVALID, f"{entry}: {size} bytes; 1 to {limits.KMS_MAX_CREDENTIALS}"
            )
        return content

    def _file(self, entry: str) -> bytes:
        try:
            # T-FILE-1, T-FILE-2, T-FILE-3
            return read_beneath(self._folder, entry, limits.KMS_MAX_CREDENTIALS)
        except FileNotFoundError:
            raise AgentError(
                ErrorCode.KMS_CREDENTIALS_MISSING,
                f'no file {self._folder}/{entry}, and no "{entry}" in kms.credentials',
            ) from None

    async def _resource(self, entry: str, uri: str, deadline: Deadline) -> Secret:
        try:
            # T-KMS-9: a credential that was taken back is not used for as long as the broker is away.
            return await self._resources.get(uri, deadline, stale=False)
        except AgentError as error:
            missing = error.code is ErrorCode.RESOURCE_NOT_FOUND
            code = ErrorCode.KMS_CREDENTIALS_MISSING if missing else error.code
            raise AgentError(
                code, f"{entry} ({uri}): {error.detail}", problem=error.problem, retry_after=error.retry_after
            ) from None


def parse_credentials(content: Secret, shape: type[T], entry: str) -> T:
    """Credentials in JSON; unknown members are ignored.

    Args:
        content: of :meth:`Credentials.read`.
        shape: a :class:`Hidden` struct.
        entry: names the credentials in the error.

    Raises:
        AgentError: KMS_CREDENTIALS_INVALID.
    """
    return read_json(content.reveal(), shape, ErrorCode.KMS_CREDENTIALS_INVALID, entry)
