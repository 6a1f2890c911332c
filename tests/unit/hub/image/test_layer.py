"""The layer cipher: any size, any cut, bounded memory, and a verdict."""

from __future__ import annotations

import errno
import functools
import hashlib
import hmac
import json
import os
import tempfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.image import layer
from agent.hub.image.layer import Blob, Watch
from agent.hub.image.options import build_private, build_public, read_options
from agent.secret import Secret
from tests.unit.hub.image.support import (
    CIPHERTEXT,
    CIPHERTEXT_DIGEST,
    PLAINTEXT,
    PRIVATE,
    PUBLIC,
    digest_of,
)
from tests.unit.hub.support import failure, unhurried

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = bytes(range(0x40, 0x60))
NONCE = bytes(range(0x60, 0x70))


@contextmanager
def file(content: bytes = b"") -> Iterator[int]:
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.flush()
        yield stream.fileno()


def opened(ciphertext: bytes, public: bytes, private: bytes, digest: str | None = None) -> bytes:
    options = read_options(public, Secret(private))
    with file(ciphertext) as source, file() as target:
        plain = layer.decrypt(Blob(source, len(ciphertext), "layer 0", digest), target, options)
        content = os.pread(target, len(ciphertext) + 1, 0)
    assert plain == digest_of(content)
    return content


def closed(plaintext: bytes) -> tuple[bytes, layer.Encrypted]:
    with file(plaintext) as source, file() as target:
        made = layer.encrypt(Blob(source, len(plaintext), "layer 0"), target)
        return os.pread(target, len(plaintext) + 1, 0), made


def sealed(plaintext: bytes, key: bytes = KEY, nonce: bytes = NONCE) -> tuple[bytes, bytes, bytes]:
    """Ciphertext, public and private options, by other means than the code under test."""
    ciphertext = Cipher(AES(key), CTR(nonce)).encryptor().update(plaintext)
    mac = hmac.digest(key, ciphertext, "sha256")
    return ciphertext, build_public(mac), build_private(key, nonce, digest_of(plaintext)).reveal()


def test_the_vector_opens() -> None:
    assert opened(CIPHERTEXT, PUBLIC, PRIVATE, CIPHERTEXT_DIGEST) == PLAINTEXT
    assert sealed(PLAINTEXT) == (CIPHERTEXT, PUBLIC, PRIVATE)


def test_the_counter_wraps() -> None:
    # cdh.md A.2
    ciphertext, public, private = sealed(bytes(48), nonce=b"\xff" * 16)
    assert ciphertext.hex() == (
        "3850456eb4be3c23dc850b0a5e22ec9d66e4d382e00325db4a74890c5198bc1527a37479bf975513417be2d3425a7f53"
    )
    assert ciphertext[16:32] == Cipher(AES(KEY), ECB()).encryptor().update(bytes(16))  # noqa: S305
    assert opened(ciphertext, public, private) == bytes(48)


@unhurried
@given(plaintext=st.binary(max_size=700), chunk=st.integers(1, 80), chunks=st.integers(1, 4))
def test_any_size_in_any_chunks(plaintext: bytes, chunk: int, chunks: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "IMAGE_CHUNK", chunk)
        patch.setattr(limits, "IMAGE_CHUNKS", chunks)
        assert opened(*sealed(plaintext)) == plaintext
        ciphertext, made = closed(plaintext)
        assert made.digest == digest_of(ciphertext)
        assert opened(ciphertext, made.public, made.private.reveal(), made.digest) == plaintext


@pytest.mark.parametrize("around", [-1, 0, 1])
@pytest.mark.parametrize("rounds", [1, limits.IMAGE_CHUNKS, 2 * limits.IMAGE_CHUNKS + 1])
def test_sizes_around_real_chunks(around: int, rounds: int) -> None:
    plaintext = os.urandom(1 << 16) * (rounds * limits.IMAGE_CHUNK // (1 << 16)) + b"x"
    plaintext = plaintext[: rounds * limits.IMAGE_CHUNK + around]
    assert opened(*sealed(plaintext, nonce=b"\xff" * 15 + b"\xfe")) == plaintext


@unhurried
@given(where=st.integers(0, 16), bit=st.integers(0, 7), named=st.booleans())
def test_no_changed_bit_passes(where: int, bit: int, named: bool) -> None:
    changed = bytearray(CIPHERTEXT)
    changed[where] ^= 1 << bit
    digest = CIPHERTEXT_DIGEST if named else None
    assert failure(lambda: opened(bytes(changed), PUBLIC, PRIVATE, digest)) is ErrorCode.IMAGE_LAYER_CORRUPT


def test_no_other_length_passes() -> None:
    for other in (CIPHERTEXT[:-1], CIPHERTEXT + b"\0", b""):
        assert failure(functools.partial(opened, other, PUBLIC, PRIVATE)) is ErrorCode.IMAGE_LAYER_CORRUPT
    with file(CIPHERTEXT) as source, file() as target, pytest.raises(AgentError, match="18 bytes"):
        layer.decrypt(Blob(source, 18, "layer 0"), target, read_options(PUBLIC, Secret(PRIVATE)))


def changed(document: bytes, **members: Any) -> bytes:
    return json.dumps({**json.loads(document), **members}).encode()


def test_a_nonce_from_the_unauthenticated_half_is_caught_by_the_digest() -> None:
    other = changed(PUBLIC, cipheroptions={"nonce": "AAAAAAAAAAAAAAAAAAAAAA=="})
    with pytest.raises(AgentError, match="decrypted it has digest") as caught:
        opened(CIPHERTEXT, other, PRIVATE)
    assert caught.value.code is ErrorCode.IMAGE_LAYER_CORRUPT


def test_without_a_hash_the_hmac_still_decides_and_a_public_nonce_is_hashed_all_the_same() -> None:
    def act(ciphertext: bytes, public: bytes) -> str:
        options = read_options(public, Secret(PRIVATE))
        with file(ciphertext) as source, file() as target:
            return layer.decrypt(Blob(source, 17, "layer 0"), target, options, hashed=False)

    assert act(CIPHERTEXT, PUBLIC) == ""
    assert failure(lambda: act(CIPHERTEXT[:-1] + b"!", PUBLIC)) is ErrorCode.IMAGE_LAYER_CORRUPT
    other = changed(PUBLIC, cipheroptions={"nonce": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert failure(lambda: act(CIPHERTEXT, other)) is ErrorCode.IMAGE_LAYER_CORRUPT


def test_the_public_nonce_goes_first_as_in_go() -> None:
    public = changed(PUBLIC, cipheroptions={"nonce": "YGFiY2RlZmdoaWprbG1ubw=="})
    private = changed(PRIVATE, cipheroptions={"nonce": "AAAAAAAAAAAAAAAAAAAAAA=="})
    assert opened(CIPHERTEXT, public, private) == PLAINTEXT


@pytest.mark.parametrize("options", [None, {}, {"nonce": None}, {"nonce": ""}, "absent"])
def test_cipheroptions_may_be_null_or_missing(options: Any) -> None:
    public = json.loads(PUBLIC)
    public["cipheroptions"] = options
    if options == "absent":
        del public["cipheroptions"]
    assert opened(CIPHERTEXT, json.dumps(public).encode(), PRIVATE) == PLAINTEXT


def test_the_digest_of_the_plaintext_may_be_missing() -> None:
    assert opened(CIPHERTEXT, PUBLIC, changed(PRIVATE, digest="")) == PLAINTEXT


@pytest.mark.parametrize(
    ("public", "private", "code"),
    [
        ({"hmac": "5sULc+Sz6So0Qoy0W5FQT7eEEuETMPS/S9wmCfPRVoU="}, {}, ErrorCode.IMAGE_LAYER_CORRUPT),
        ({"hmac": "AAAA"}, {}, ErrorCode.IMAGE_LAYOUT_INVALID),
        ({"hmac": None}, {}, ErrorCode.IMAGE_LAYOUT_INVALID),
        ({"hmac": "not base64!"}, {}, ErrorCode.IMAGE_LAYOUT_INVALID),
        ({"cipher": "none"}, {}, ErrorCode.IMAGE_LAYOUT_INVALID),
        ({"cipher": None}, {}, ErrorCode.IMAGE_LAYOUT_INVALID),
        ({"cipheroptions": {"nonce": "AAAAAAAAAAAAAAAA"}}, {}, ErrorCode.IMAGE_LAYOUT_INVALID),
        ({}, {"symkey": "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl4="}, ErrorCode.IMAGE_LAYER_CORRUPT),
        ({}, {"symkey": "QEFC"}, ErrorCode.IMAGE_KEY_MALFORMED),
        ({}, {"symkey": None}, ErrorCode.IMAGE_KEY_MALFORMED),
        ({}, {"cipheroptions": None}, ErrorCode.IMAGE_KEY_MALFORMED),
        ({}, {"cipheroptions": {"nonce": "AAAAAAAAAAAAAAAA"}}, ErrorCode.IMAGE_KEY_MALFORMED),
        ({}, {"digest": "sha256:" + "0" * 64}, ErrorCode.IMAGE_LAYER_CORRUPT),
        ({}, {"digest": "md5:00"}, ErrorCode.IMAGE_KEY_MALFORMED),
    ],
)
def test_each_changed_option_has_its_code(
    public: dict[str, Any], private: dict[str, Any], code: ErrorCode
) -> None:
    changes = changed(PUBLIC, **public), changed(PRIVATE, **private)
    assert failure(lambda: opened(CIPHERTEXT, *changes)) is code


@unhurried
@given(public=st.binary(max_size=60), private=st.binary(max_size=60))
def test_noise_for_options_is_refused(public: bytes, private: bytes) -> None:
    assert failure(lambda: read_options(public, Secret(PRIVATE))) is ErrorCode.IMAGE_LAYOUT_INVALID
    assert failure(lambda: read_options(PUBLIC, Secret(private))) is ErrorCode.IMAGE_KEY_MALFORMED


def test_the_error_names_the_layer_and_no_key() -> None:
    with pytest.raises(AgentError) as caught:
        opened(CIPHERTEXT, PUBLIC, changed(PRIVATE, symkey="QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl4="))
    assert caught.value.detail.startswith("layer 0: ")
    assert "QEFC" not in caught.value.detail


def test_two_layers_never_share_key_or_nonce() -> None:
    made = [json.loads(closed(PLAINTEXT)[1].private.reveal()) for _ in range(8)]
    assert len({one["symkey"] for one in made}) == 8
    assert len({one["cipheroptions"]["nonce"] for one in made}) == 8


def test_only_the_blob_that_is_named_is_encrypted() -> None:
    with file(b"other") as source, file() as target:
        blob = Blob(source, 5, "layer 0", digest_of(PLAINTEXT))
        assert failure(lambda: layer.encrypt(blob, target)) is ErrorCode.IMAGE_LAYER_CORRUPT


def test_progress_counts_every_byte() -> None:
    seen: list[int] = []
    with file(bytes(3 * limits.IMAGE_CHUNK + 5)) as source, file() as target:
        layer.encrypt(Blob(source, 3 * limits.IMAGE_CHUNK + 5, "layer 0"), target, Watch(seen.append))
    assert sum(seen) == 3 * limits.IMAGE_CHUNK + 5


def test_work_that_is_called_off_ends_and_leaves_no_thread() -> None:
    stop = threading.Event()
    with file(bytes(4 * limits.IMAGE_CHUNK)) as source, file() as target:
        blob = Blob(source, 4 * limits.IMAGE_CHUNK, "layer 0")
        watch = Watch(lambda _: stop.set(), stop)
        assert failure(lambda: layer.encrypt(blob, target, watch)) is ErrorCode.CANCELLED
    assert not [one for one in threading.enumerate() if one.name == "layer-hash"]


def test_memory_does_not_grow_with_the_layer() -> None:
    made: list[int] = []

    class Counted(bytearray):
        def __init__(self, size: int) -> None:
            made.append(size)
            super().__init__(size)

    with pytest.MonkeyPatch.context() as patch, file() as source, file() as target:
        patch.setattr(layer, "bytearray", Counted, raising=False)
        size = 40 * limits.IMAGE_CHUNK
        os.truncate(source, size)
        layer.encrypt(Blob(source, size, "layer 0"), target)
    assert sum(made) == 2 * limits.IMAGE_CHUNKS * limits.IMAGE_CHUNK


def test_a_file_system_need_not_be_able_to_reserve_room(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = errno.EOPNOTSUPP

    def refuse(*_: int) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    ciphertext, made = closed(b"plain")
    assert opened(ciphertext, made.public, made.private.reveal()) == b"plain"
    reason = errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        closed(b"plain")


def test_a_plain_digest() -> None:
    with file(PLAINTEXT) as source, file() as target:
        assert layer.digest(Blob(source, 17, "config"), target) == digest_of(PLAINTEXT)
        assert os.pread(target, 99, 0) == PLAINTEXT
    with file(b"") as source:
        assert layer.digest(Blob(source, 0, "config")) == "sha256:" + hashlib.sha256().hexdigest()
