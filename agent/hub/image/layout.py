"""OCI image layouts on disk: reading one, and making another beside it that appears as a whole.

Format: OCI image specification, "Image Layout": ``oci-layout``, ``index.json``, ``blobs/sha256/<hex>``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.files import descend
from agent.hub.encoding import read_json
from agent.hub.image import layer
from agent.hub.image.documents import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from agent.hub.image.documents import Descriptor

BLOBS: Final = "blobs/sha256"
MARK: Final = "oci-layout"
INDEX: Final = "index.json"
VERSION: Final = "1.0.0"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MARK_MAX: Final = 4 * limits.KIB


class _Mark(msgspec.Struct, frozen=True):
    imageLayoutVersion: str = ""  # noqa: N815  # wire name


class Layout:
    """An image layout that is read."""

    def __init__(self, path: str) -> None:
        """Open the folder.

        Raises:
            AgentError: IMAGE_LAYOUT_INVALID when it is no image layout of version 1.0.0.
        """
        self.path = path
        try:
            self._root = os.open(path, _FOLDER)
        except OSError as error:
            raise _invalid(f"{path}: {error.strerror}") from error
        try:
            mark = read_json(
                self._file(MARK, _MARK_MAX), _Mark, ErrorCode.IMAGE_LAYOUT_INVALID, f"{path}/{MARK}"
            )
            if mark.imageLayoutVersion != VERSION:
                raise _invalid(f"{path}/{MARK}: imageLayoutVersion is not {VERSION}")
            self._blobs = _open_below(self._root, BLOBS, path)
        except BaseException:
            os.close(self._root)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._blobs)
        os.close(self._root)

    def index(self) -> bytes:
        """``index.json``.

        Raises:
            AgentError: IMAGE_LAYOUT_INVALID.
        """
        return self._file(INDEX, limits.IMAGE_DOCUMENT_MAX)

    def document(self, descriptor: Descriptor) -> bytes:
        """A manifest or an index, whose size and digest are right.

        Raises:
            AgentError: IMAGE_LAYOUT_INVALID.
        """
        name = f"{self.path}: manifest {descriptor.digest}"
        if descriptor.size > limits.IMAGE_DOCUMENT_MAX:
            raise _invalid(f"{name} is larger than {limits.IMAGE_DOCUMENT_MAX} bytes")
        with self.open(descriptor, name) as blob:
            content = _read_all(blob.file, limits.IMAGE_DOCUMENT_MAX)
        # T-IMGKEY-17: what a manifest says counts only when it is the one that is named.
        if len(content) != descriptor.size or sha256(content) != descriptor.digest:
            raise _invalid(f"{name}: size or digest does not match")
        return content

    @contextlib.contextmanager
    def open(self, descriptor: Descriptor, name: str) -> Iterator[layer.Blob]:
        """A blob, not verified yet.

        Raises:
            AgentError: IMAGE_LAYOUT_INVALID when it is not there or not a regular file.
        """
        file = _open_regular(_hex(descriptor.digest), self._blobs, name)
        try:
            yield layer.Blob(file, descriptor.size, name, descriptor.digest)
        finally:
            os.close(file)

    def link(self, descriptor: Descriptor, blob: layer.Blob, folder: int) -> bool:
        """Give a blob a second name in ``folder``; False when it has to be copied."""
        found = os.fstat(blob.file)
        # T-IMGKEY-18: a linked file can be changed through its first name: only if nobody else can write it.
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
        name = _hex(descriptor.digest)
        try:
            os.link(name, name, src_dir_fd=self._blobs, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        made = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if (made.st_dev, made.st_ino) == (found.st_dev, found.st_ino):
            return True
        os.unlink(name, dir_fd=folder)
        return False

    def _file(self, name: str, limit: int) -> bytes:
        file = _open_regular(name, self._root, f"{self.path}/{name}")
        try:
            content = _read_all(file, limit)
        finally:
            os.close(file)
        if len(content) > limit:
            raise _invalid(f"{self.path}/{name}: larger than {limit} bytes")
        return content


class NewLayout:
    """A layout under construction: in a folder of its own (mode 0700), which gets its name when all is well.

    Leaving the block without :meth:`finish` removes everything.
    """

    def __init__(self, path: str) -> None:
        """Make the folder beside ``path``.

        Raises:
            AgentError: INVALID_REQUEST when ``path`` exists or its parent cannot be written.
        """
        target = Path(path)
        self.path, self._name = path, target.name
        self._temporary = f".{target.name}.{os.urandom(8).hex()}"
        if not self._name or self._name == "..":
            raise AgentError(ErrorCode.INVALID_REQUEST, f"{path}: no name for a new folder")
        with contextlib.ExitStack() as undo:
            try:
                self._parent = os.open(target.parent, _FOLDER)
                undo.callback(os.close, self._parent)
                if _exists(self._name, self._parent):
                    raise AgentError(ErrorCode.INVALID_REQUEST, f"{path} exists; nothing was written")
                os.mkdir(self._temporary, 0o700, dir_fd=self._parent)
                undo.callback(shutil.rmtree, self._temporary, dir_fd=self._parent)
                self._root = os.open(self._temporary, _FOLDER | os.O_NOFOLLOW, dir_fd=self._parent)
                undo.callback(os.close, self._root)
                os.mkdir("blobs", 0o700, dir_fd=self._root)
                os.mkdir(BLOBS, 0o700, dir_fd=self._root)
                self.blobs = os.open(BLOBS, _FOLDER | os.O_NOFOLLOW, dir_fd=self._root)
                undo.callback(os.close, self.blobs)
            except OSError as error:
                raise AgentError(ErrorCode.INVALID_REQUEST, f"{path}: {error.strerror}") from error
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    @contextlib.contextmanager
    def stage(self) -> Iterator[Staged]:
        """A file for a blob whose digest is not known or not believed yet; without a commit it goes away."""
        # T-IMGKEY-19: unauthenticated plaintext is in a new file of ours, under no name anybody looks for.
        name = f".{os.urandom(8).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=self.blobs)
        staged = Staged(file, name, self.blobs)
        try:
            yield staged
        finally:
            os.close(file)
            if not staged.committed:
                os.unlink(name, dir_fd=self.blobs)

    def put(self, content: bytes) -> str:
        """Write a small blob; its digest."""
        digest = sha256(content)
        with self.stage() as staged:
            _write_all(staged.file, content)
            staged.commit(digest)
        return digest

    def finish(self, index: bytes) -> None:
        """Write ``index.json``, wait for the disk, and let the layout appear under its name.

        Raises:
            AgentError: INVALID_REQUEST when something has taken the name meanwhile.
        """
        _create(MARK, b'{"imageLayoutVersion":"' + VERSION.encode() + b'"}', self._root)
        _create(INDEX, index, self._root)
        # T-IMGKEY-20: after a power cut a layout is whole or not there.
        with os.scandir(self.blobs) as entries:
            for entry in entries:
                _sync(entry.name, self.blobs)
        for name in (BLOBS, "blobs", "."):
            _sync(name, self._root)
        try:
            os.rename(self._temporary, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        except OSError as error:
            raise AgentError(ErrorCode.INVALID_REQUEST, f"{self.path}: {error.strerror}") from error
        os.fsync(self._parent)
        kept = self._undo.pop_all()
        for folder in (self.blobs, self._root, self._parent):
            os.close(folder)
        del kept


class Staged:
    """A file that waits for its verdict.

    Attributes:
        file: open descriptor for reading and writing.
        committed: whether it has its name.
    """

    def __init__(self, file: int, name: str, folder: int) -> None:
        self.file = file
        self.committed = False
        self._name = name
        self._folder = folder

    def commit(self, digest: str) -> None:
        """Give it the name of its digest: somebody has found that it has it."""
        os.rename(self._name, _hex(digest), src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.committed = True


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _open_below(root: int, path: str, shown: str) -> int:
    try:
        # T-IMGKEY-21: a link in the layout would let it read any file of ours as a blob.
        return descend(os.dup(root), path.split("/"))
    except OSError as error:
        raise _invalid(f"{shown}/{path}: {_reason(error)}") from error


def _open_regular(name: str, folder: int, shown: str) -> int:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise _invalid(f"{shown}: {_reason(error)}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _invalid(f"{shown}: not a regular file")
    return file


def _reason(error: OSError) -> str:
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return "a symbolic link or not a folder"
    return os.strerror(error.errno or 0)


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _read_all(file: int, limit: int) -> bytes:
    """Up to one byte more than ``limit``."""
    with os.fdopen(file, "rb", closefd=False) as stream:
        return stream.read(limit + 1)


def _write_all(file: int, content: bytes) -> None:
    with os.fdopen(file, "wb", closefd=False) as stream:
        stream.write(content)


def _create(name: str, content: bytes, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        _write_all(file, content)
        os.fsync(file)
    finally:
        os.close(file)


def _sync(name: str, folder: int) -> None:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _invalid(reason: str) -> AgentError:
    return AgentError(ErrorCode.IMAGE_LAYOUT_INVALID, reason)
