"""Offline stores as an image builder writes them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.kms.offline_fs import OfflineFsGetter, parse_store
from agent.secret import Secret
from tests.unit.hub import support
from tests.unit.hub.support import failure, soon, unhurried

if TYPE_CHECKING:
    from pathlib import Path

URI = "kbs:///default/key/1"


def store(path: Path, **entries: bytes) -> str:
    text = {name.replace("_", "/"): base64.b64encode(value).decode() for name, value in entries.items()}
    return support.write(path, json.dumps(text).encode())


async def refusal(getter: OfflineFsGetter, uri: str = URI) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await getter.get(uri, {}, soon())
    return caught.value


async def test_a_later_store_overrides_an_earlier_one(tmp_path: Path) -> None:
    first = store(tmp_path / "keys.json", default_key_1=b"old", default_key_2=b"two")
    second = store(tmp_path / "resources.json", default_key_1=b"new")
    getter = OfflineFsGetter([first, second])
    assert await getter.get(URI, {}, soon()) == Secret(b"new")
    assert await getter.get("kbs:///default/key/2", {}, soon()) == Secret(b"two")


@pytest.mark.parametrize("uri", ["kbs://host:8080/default/key/1", "kbs+other:///default/key/1", f"{URI}?a=b"])
async def test_only_the_path_counts(tmp_path: Path, uri: str) -> None:
    getter = OfflineFsGetter([store(tmp_path / "keys.json", default_key_1=b"one")])
    assert await getter.get(uri, {}, soon()) == Secret(b"one")


async def test_stores_are_read_again_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    getter = OfflineFsGetter([str(path)])
    assert (await refusal(getter)).code is ErrorCode.RESOURCE_NOT_FOUND
    store(path, default_key_1=b"one")
    assert await getter.get(URI, {}, soon()) == Secret(b"one")
    store(path, default_key_1=b"two")
    assert await getter.get(URI, {}, soon()) == Secret(b"two")
    path.unlink()
    assert (await refusal(getter)).code is ErrorCode.RESOURCE_NOT_FOUND


async def test_missing_stores_are_skipped(tmp_path: Path) -> None:
    there = store(tmp_path / "keys.json", default_key_1=b"")
    getter = OfflineFsGetter([str(tmp_path / "no" / "folder.json"), there, str(tmp_path / "none.json")])
    assert await getter.get(URI, {}, soon()) == Secret(b"")
    assert (await refusal(OfflineFsGetter([]))).code is ErrorCode.RESOURCE_NOT_FOUND


async def test_a_malformed_uri(tmp_path: Path) -> None:
    getter = OfflineFsGetter([store(tmp_path / "keys.json", default_key_1=b"one")])
    assert (await refusal(getter, "default/key/1")).code is ErrorCode.INVALID_URI


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"default/key/1":1}',
        b'{"default/key/1":null}',
        b'{"default/key/1":"canary!"}',
        b'{"default/key/1":"Y2FuYXJ5","default/key/2":"canary!"}',
        b'{"default/key/1":"QQ"}',
        b'{"default/key/1":"-_8="}',
    ],
)
async def test_a_broken_store_is_named_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = support.write(tmp_path / "keys.json", content)
    good = store(tmp_path / "good.json", default_key_1=b"one")
    for stores in ([path, good], [good, path]):
        error = await refusal(OfflineFsGetter(stores))
        assert error.code is ErrorCode.OFFLINE_STORE_INVALID
        assert path in error.detail
        assert "canary" not in error.detail


async def test_an_unsafe_store_is_not_read(tmp_path: Path) -> None:
    good = store(tmp_path / "good.json", default_key_1=b"one")
    link = tmp_path / "link.json"
    link.symlink_to(good)
    loose = tmp_path / "loose.json"
    store(loose, default_key_1=b"one")
    loose.chmod(0o666)
    large = tmp_path / "large.json"
    support.write(large, b" " * (limits.OFFLINE_STORE_MAX + 1))
    for path in (link, loose, large):
        error = await refusal(OfflineFsGetter([good, str(path)]))
        assert error.code is ErrorCode.FILE_UNSAFE
        assert str(path) in error.detail


async def test_a_folder_is_no_store(tmp_path: Path) -> None:
    assert (await refusal(OfflineFsGetter([str(tmp_path)]))).code is ErrorCode.FILE_UNSAFE


@unhurried
@given(st.dictionaries(st.text(max_size=20), st.binary(max_size=40), max_size=5))
def test_a_store_reads_back(entries: dict[str, bytes]) -> None:
    text = json.dumps({path: base64.b64encode(value).decode() for path, value in entries.items()})
    assert parse_store(text.encode(), "store") == entries


@unhurried
@given(
    st.binary(max_size=100)
    | st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers()).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_only_the_declared_error_leaves_the_parser(content: bytes) -> None:
    assert failure(lambda: parse_store(content, "store")) in {None, ErrorCode.OFFLINE_STORE_INVALID}
