"""The layer cipher AES_256_CTR_HMAC_SHA256 from file to file (cdh.md 6.4, 6.5).

A layer is of any size, memory is not: a few fixed chunks go round. Reading, the cipher and writing are done
by the calling thread; each hash has a thread of its own. All of them leave the interpreter to others while
they compute, so a layer uses as many cores as there are.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.image.options import KEY_SIZE, NONCE_SIZE, LayerOptions, build_private, build_public

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.secret import Secret

__all__ = ["Blob", "Encrypted", "Watch", "decrypt", "digest", "encrypt"]

DIGEST_PREFIX: Final = "sha256:"


class _Hash(Protocol):
    def update(self, data: memoryview, /) -> None: ...


class Blob(msgspec.Struct, frozen=True):
    """A file to read from, as its descriptor describes it.

    Attributes:
        file: open descriptor; read by offset, so its position does not matter.
        size: bytes.
        name: for errors, such as ``layer 2 (sha256:...)``.
        digest: ``sha256:<hex>`` the content must have; None when somebody else has checked that.
    """

    file: int
    size: int
    name: str
    digest: str | None = None


class Watch(msgspec.Struct, frozen=True):
    """How whoever waits looks on, and calls it off.

    Attributes:
        advance: told the bytes of each chunk; called from any thread.
        stop: set to end the work with CANCELLED.
    """

    advance: Callable[[int], None] = lambda _: None
    stop: threading.Event = msgspec.field(default_factory=threading.Event)


class Encrypted(msgspec.Struct, frozen=True):
    """What encrypting a layer gave.

    Attributes:
        public: public options, JSON in clear.
        private: private options, JSON, to be wrapped.
        digest: ``sha256:<hex>`` of the ciphertext.
    """

    public: bytes
    private: Secret
    digest: str


def decrypt(
    source: Blob, target: int, options: LayerOptions, watch: Watch | None = None, *, hashed: bool = True
) -> str:
    """Write the plaintext of ``source`` to ``target``, which is nobody's business until this returns.

    When it raises, ``target`` holds bytes that nothing vouches for: the caller removes it.

    Args:
        source: the encrypted blob.
        target: descriptor of an empty file of the caller's own.
        options: key, nonce, HMAC and digest.
        watch: see :class:`Watch`.
        hashed: False for a caller that compares the plaintext with a digest of its own (``diff_id``); then
            the HMAC is the verdict, except for a nonce that it does not cover.

    Returns:
        ``sha256:<hex>`` of the plaintext; empty when it was not hashed.

    Raises:
        AgentError: IMAGE_LAYER_CORRUPT, CANCELLED.
        OSError: reading or writing.
    """
    mac = hmac.new(options.key.reveal(), digestmod="sha256")
    blob, after = hashlib.sha256(), hashlib.sha256()
    before: list[_Hash] = [mac] if source.digest is None else [mac, blob]
    hashed = hashed or options.nonce_public
    sides = before, [after] if hashed else []
    _run(source, target, _Cipher(options.key.reveal(), options.nonce), sides, watch or Watch())
    # T-IMGKEY-12: the verdict comes after the last byte, in constant time, before anybody gets the first one.
    read = None if source.digest is None else DIGEST_PREFIX + blob.hexdigest()
    authentic = hmac.compare_digest(mac.digest(), options.mac)
    plain = DIGEST_PREFIX + after.hexdigest() if hashed else ""
    if read != source.digest:
        raise _corrupt(source, f"the blob has digest {read}")
    if not authentic:
        raise _corrupt(source, "the HMAC does not match: it is another one's, or the key is")
    # T-IMGKEY-13: the HMAC does not cover the nonce, which may come from the unauthenticated half.
    if hashed and options.digest is not None and plain != options.digest:
        raise _corrupt(source, f"decrypted it has digest {plain}, not that of the layer that was encrypted")
    return plain


def encrypt(source: Blob, target: int, watch: Watch | None = None) -> Encrypted:
    """Write the ciphertext of ``source`` to ``target``, with a key and a nonce of its own.

    Args:
        source: the blob; when it names a digest, nothing else is encrypted.
        target: descriptor of an empty file of the caller's own.
        watch: see :class:`Watch`.

    Raises:
        AgentError: IMAGE_LAYER_CORRUPT when ``source`` is not what its descriptor says, CANCELLED.
        OSError: reading or writing.
    """
    key, nonce = os.urandom(KEY_SIZE), os.urandom(NONCE_SIZE)
    before, after, mac = hashlib.sha256(), hashlib.sha256(), hmac.new(key, digestmod="sha256")
    _run(source, target, _Cipher(key, nonce), ([before], [mac, after]), watch or Watch())
    plain = DIGEST_PREFIX + before.hexdigest()
    if source.digest not in {None, plain}:
        raise _corrupt(source, f"the blob has digest {plain}")
    return Encrypted(
        build_public(mac.digest()),
        build_private(key, nonce, plain),
        DIGEST_PREFIX + after.hexdigest(),
    )


def digest(source: Blob, copy_to: int | None = None, watch: Watch | None = None) -> str:
    """``sha256:<hex>`` of a blob, copied on the way if ``copy_to`` is a descriptor.

    Raises:
        AgentError: IMAGE_LAYER_CORRUPT when it has another size or digest than ``source`` says, CANCELLED.
        OSError: reading or writing.
    """
    seen = hashlib.sha256()
    _run(source, copy_to, None, ([seen], []), watch or Watch())
    found = DIGEST_PREFIX + seen.hexdigest()
    if source.digest not in {None, found}:
        raise _corrupt(source, f"the blob has digest {found}")
    return found


def _corrupt(source: Blob, reason: str) -> AgentError:
    return AgentError(ErrorCode.IMAGE_LAYER_CORRUPT, f"{source.name}: {reason}")


class _Cipher:
    """AES-256-CTR; the counter has 128 bits and wraps. Both directions are the same."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._context = Cipher(AES(key), CTR(nonce)).encryptor()

    def apply(self, data: memoryview, into: memoryview) -> None:
        self._context.update_into(data, into)


class _Hasher:
    """A running hash in a thread of its own, at most ``limits.IMAGE_CHUNKS`` chunks behind."""

    def __init__(self, running: _Hash) -> None:
        self._running = running
        self._queue: SimpleQueue[memoryview | None] = SimpleQueue()
        self._room = threading.Semaphore(limits.IMAGE_CHUNKS)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="layer-hash", daemon=True)
        self._thread.start()

    def reserve(self) -> None:
        """Wait until the chunk that was given ``limits.IMAGE_CHUNKS`` chunks ago is done with."""
        self._room.acquire()

    def give(self, chunk: memoryview) -> None:
        """Hash ``chunk`` soon; one :meth:`reserve` each."""
        self._queue.put(chunk)

    def finish(self) -> None:
        """Wait until all of it is hashed."""
        self._queue.put(None)
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def _work(self) -> None:
        while (chunk := self._queue.get()) is not None:
            try:
                if self._failed is None:
                    self._running.update(chunk)
            except BaseException as error:  # noqa: BLE001  # told to the one who waits, in finish()
                self._failed = error
            self._room.release()


def _run(
    source: Blob,
    target: int | None,
    cipher: _Cipher | None,
    hashes: tuple[Sequence[_Hash], Sequence[_Hash]],
    watch: Watch,
) -> None:
    """Read, hash, encipher, hash, write; ``hashes`` are those before and after the cipher."""
    if os.fstat(source.file).st_size != source.size:
        raise _corrupt(source, f"the blob does not have the {source.size} bytes of its descriptor")
    if target is not None and source.size:
        # Room is there before the work begins, and writing costs a fifth of what it does without.
        try:
            os.posix_fallocate(target, 0, source.size)
        except OSError as error:
            # Not every file system can, and not every C library makes up for it (musl).
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
    with _Hashers(hashes) as (before, after):
        _rounds(source, target, cipher, (before, after), watch)


class _Hashers:
    def __init__(self, hashes: tuple[Sequence[_Hash], Sequence[_Hash]]) -> None:
        self._sides = tuple([_Hasher(running) for running in side] for side in hashes)

    def __enter__(self) -> tuple[list[_Hasher], list[_Hasher]]:
        return self._sides[0], self._sides[1]

    def __exit__(self, *_: object) -> None:
        for side in self._sides:
            for hasher in side:
                hasher.finish()


def _rounds(
    source: Blob,
    target: int | None,
    cipher: _Cipher | None,
    hashers: tuple[list[_Hasher], list[_Hasher]],
    watch: Watch,
) -> None:
    before, after = hashers
    room = min(limits.IMAGE_CHUNK, max(source.size, 1))
    chunks = [(memoryview(bytearray(room)), memoryview(bytearray(room if cipher else 0)))
              for _ in range(min(limits.IMAGE_CHUNKS, -(-source.size // room)))]  # fmt: skip
    for number, offset in enumerate(range(0, source.size, room)):
        if watch.stop.is_set():
            raise AgentError(ErrorCode.CANCELLED, f"{source.name}: called off")
        for hasher in (*before, *after):
            hasher.reserve()
        taken, made = chunks[number % len(chunks)]
        size = min(room, source.size - offset)
        taken = taken[:size]
        _read(source, taken, offset)
        for hasher in before:
            hasher.give(taken)
        result = taken
        if cipher is not None:
            result = made[:size]
            cipher.apply(taken, result)
        for hasher in after:
            hasher.give(result)
        if target is not None:
            _write(target, result, offset)
        watch.advance(size)


def _read(source: Blob, into: memoryview, offset: int) -> None:
    while into:
        count = os.preadv(source.file, [into], offset)
        if count == 0:
            raise _corrupt(source, "the blob became shorter while it was read")
        into, offset = into[count:], offset + count


def _write(target: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(target, data, offset)
        data, offset = data[count:], offset + count
