"""Whole images: there and back again, and every way to be refused."""

from __future__ import annotations

import base64
import functools
import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.image import images
from agent.hub.image.documents import Document
from agent.hub.image.images import PUBLIC_OPTIONS
from agent.hub.image.layer import Watch
from agent.hub.image.layout import Layout, NewLayout
from agent.hub.image.wrapping import JWE, OURS, PREFIX, Wrapper
from tests.unit.hub.image.support import (
    INDEX,
    MANIFEST,
    PLAINTEXT,
    TAG,
    TAR,
    Maker,
    blobs,
    decrypt,
    digest_of,
    encrypt,
    keys,
    load,
    rewrite,
    simple,
)
from tests.unit.hub.support import failure, unhurried

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def manifest_of(root: Path) -> dict[str, Any]:
    index = json.loads((root / "index.json").read_bytes())
    found: dict[str, Any] = json.loads(blobs(root)[index["manifests"][0]["digest"][7:]])
    return found


@pytest.mark.parametrize("indent", [None, 2, 3, 4])
async def test_encrypted_and_decrypted_again_it_is_the_same_image(tmp_path: Path, indent: int | None) -> None:
    maker = Maker(tmp_path / "a", indent)
    first = maker.manifest([PLAINTEXT, b"", b"two <& more>"], annotations={TAG: "latest"})
    maker.index(first)
    secret = encrypt(tmp_path / "a", tmp_path / "b")
    assert PLAINTEXT not in blobs(secret).values()
    plain = await decrypt(secret, tmp_path / "c")
    assert blobs(plain) == blobs(tmp_path / "a")
    assert (plain / "index.json").read_bytes() == (tmp_path / "a" / "index.json").read_bytes()


async def test_what_an_encrypted_layer_looks_like(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "a")
    layers = [maker.blob(PLAINTEXT + bytes([n]), TAR + kind) for n, kind in enumerate(("", "+gzip", "+zstd"))]
    layers.append(
        maker.blob(b"n", TAR.replace("layer.", "layer.nondistributable."), annotations={"own": "1"})
    )
    maker.index(maker.manifest(layers))
    secret = encrypt(tmp_path / "a", tmp_path / "b")
    made = manifest_of(secret)
    for before, after in zip(layers, made["layers"], strict=True):
        assert after["mediaType"] == before["mediaType"] + "+encrypted"
        assert after["size"] == before["size"]
        assert digest_of(blobs(secret)[after["digest"][7:]]) == after["digest"] != before["digest"]
        public = json.loads(base64.b64decode(after["annotations"][PUBLIC_OPTIONS]))
        assert list(public) == ["cipher", "hmac", "cipheroptions"]
        packet = json.loads(base64.b64decode(after["annotations"][OURS]))
        assert list(packet) == ["kid", "wrapped_data", "iv", "wrap_type"]
    assert made["layers"][3]["annotations"]["own"] == "1"
    assert made["config"] == manifest_of(tmp_path / "a")["config"]
    assert blobs(await decrypt(secret, tmp_path / "c")) == blobs(tmp_path / "a")


async def test_a_nested_index_keeps_platforms_and_what_it_does_not_know(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "a")
    shared = b"a layer that both have"
    one = maker.manifest([shared, b"amd"], platform={"os": "linux", "architecture": "amd64"})
    two = maker.manifest(
        [shared, b"arm", b"x"], platform={"os": "linux", "architecture": "arm64", "variant": "v8"}
    )
    strange = maker.blob(b"?", "application/vnd.example", platform={"os": "unknown"}, unheard={"of": [1.5]})
    maker.index(maker.nested([one, two, strange], annotations={TAG: "v1"}))
    secret = encrypt(tmp_path / "a", tmp_path / "b")
    found = load(secret)
    assert [node.descriptor.platform for node in found.manifests()] == ["linux/amd64", "linux/arm64/v8"]
    assert len(found.layers()) == 4  # the shared one is encrypted once
    assert blobs(await decrypt(secret, tmp_path / "c")) == blobs(tmp_path / "a")
    only = encrypt(tmp_path / "a", tmp_path / "d", platform="linux/arm64")
    assert [node.descriptor.platform for node in load(only).manifests()] == ["linux/arm64/v8"]
    assert load(simple(tmp_path / "one"), platform="linux/arm64").manifests()
    assert failure(lambda: load(secret, platform="windows/amd64")) is ErrorCode.IMAGE_LAYOUT_INVALID


def test_one_image_of_several_is_chosen_by_tag_or_digest(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "a")
    entries = [maker.manifest([bytes([n])] * (n + 1), annotations={TAG: f"v{n}"}) for n in range(2)]
    maker.index(*entries)
    assert len(load(maker.root).nodes) == 2
    for chosen in (load(maker.root, tag="v1"), load(maker.root, digest=entries[1]["digest"])):
        assert [node.descriptor.digest for node in chosen.nodes] == [entries[1]["digest"]]
    for nothing in ({"tag": "v2"}, {"tag": "v0", "digest": entries[1]["digest"]}):
        assert failure(functools.partial(load, maker.root, **nothing)) is ErrorCode.IMAGE_LAYOUT_INVALID
    assert failure(lambda: load(maker.root, digest="sha256:../x")) is ErrorCode.INVALID_REQUEST
    secret = encrypt(maker.root, tmp_path / "b", tag="v0")
    assert len(json.loads((secret / "index.json").read_bytes())["manifests"]) == 1


def test_a_copy_of_the_plaintext_inside_the_descriptor_goes_away(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "a")
    inline = maker.blob(PLAINTEXT, TAR, data=base64.b64encode(PLAINTEXT).decode())
    maker.index(maker.manifest([inline]))
    secret = encrypt(maker.root, tmp_path / "b")
    assert base64.b64encode(PLAINTEXT) not in b"".join(blobs(secret).values())


def test_files_are_the_owner_s_alone_and_untouched_ones_are_linked(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "a")
    odd = maker.blob(b"kept", "application/vnd.example.layer")
    maker.index(maker.manifest([PLAINTEXT, odd]))
    secret = encrypt(maker.root, tmp_path / "b")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o700
    after = manifest_of(secret)["layers"]
    layer = secret / "blobs" / "sha256" / after[0]["digest"][7:]
    assert stat.S_IMODE(layer.stat().st_mode) == 0o600
    kept = secret / "blobs" / "sha256" / after[1]["digest"][7:]
    assert kept.samefile(maker.path(odd["digest"]))
    maker.path(odd["digest"]).chmod(0o666)
    copied = encrypt(maker.root, tmp_path / "c") / "blobs" / "sha256" / odd["digest"][7:]
    assert not copied.samefile(maker.path(odd["digest"]))
    assert copied.read_bytes() == b"kept"


# --- refusals ------------------------------------------------------------------------------------
async def refused(source: Path, target: Path) -> ErrorCode:
    before = sorted(source.parent.iterdir())
    with pytest.raises(AgentError) as caught:
        await decrypt(source, target)
    assert sorted(source.parent.iterdir()) == before, "something was left behind"
    return caught.value.code


def flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(bytes(data)).decode()


def change_public(**members: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        annotations = manifest["layers"][0]["annotations"]
        public = json.loads(base64.b64decode(annotations[PUBLIC_OPTIONS]))
        public.update({k: v(public[k]) if callable(v) else v for k, v in members.items()})
        annotations[PUBLIC_OPTIONS] = base64.b64encode(json.dumps(public).encode()).decode()

    return change


def change_packet(**members: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        annotations = manifest["layers"][0]["annotations"]
        packet = json.loads(base64.b64decode(annotations[OURS]))
        packet.update({k: v(packet[k]) if callable(v) else v for k, v in members.items()})
        annotations[OURS] = base64.b64encode(json.dumps(packet).encode()).decode()

    return change


def drop_public(manifest: dict[str, Any]) -> None:
    del manifest["layers"][0]["annotations"][PUBLIC_OPTIONS]


def other_digest(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["digest"] = "sha256:" + "0" * 64


def other_size(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["size"] += 1


def swap_keys(manifest: dict[str, Any]) -> None:
    one, two = (layer["annotations"] for layer in manifest["layers"])
    one[OURS], two[OURS] = two[OURS], one[OURS]


TAMPERING = {
    "hmac": (change_public(hmac=flip), ErrorCode.IMAGE_LAYER_CORRUPT),
    "nonce": (
        change_public(cipheroptions={"nonce": "AAAAAAAAAAAAAAAAAAAAAA=="}),
        ErrorCode.IMAGE_LAYER_CORRUPT,
    ),
    "another layer's key": (swap_keys, ErrorCode.IMAGE_LAYER_CORRUPT),
    "size": (other_size, ErrorCode.IMAGE_LAYER_CORRUPT),
    "wrapped key": (change_packet(wrapped_data=flip), ErrorCode.IMAGE_KEY_UNWRAP_FAILED),
    "iv": (change_packet(iv=flip), ErrorCode.IMAGE_KEY_UNWRAP_FAILED),
    "wrap type": (change_packet(wrap_type="A128GCM"), ErrorCode.IMAGE_KEY_MALFORMED),
    "digest": (other_digest, ErrorCode.IMAGE_LAYOUT_INVALID),
    "no public options": (drop_public, ErrorCode.IMAGE_LAYOUT_INVALID),
    "cipher": (change_public(cipher="NONE"), ErrorCode.IMAGE_LAYOUT_INVALID),
    "short nonce": (change_public(cipheroptions={"nonce": "AAAA"}), ErrorCode.IMAGE_LAYOUT_INVALID),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_tampering_has_its_code_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    change, code = TAMPERING[what]
    secret = encrypt(simple(tmp_path / "a"), tmp_path / "b")
    rewrite(secret, change)
    assert await refused(secret, tmp_path / "c") is code


async def test_a_changed_blob_is_named_with_number_and_digest(tmp_path: Path) -> None:
    secret = encrypt(simple(tmp_path / "a"), tmp_path / "b")
    digest = manifest_of(secret)["layers"][1]["digest"]
    path = secret / "blobs" / "sha256" / digest[7:]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(AgentError) as caught:
        await decrypt(secret, tmp_path / "c")
    assert caught.value.code is ErrorCode.IMAGE_LAYER_CORRUPT
    assert caught.value.detail.startswith(f"layer 1 ({digest}): the blob has digest sha256:")


async def test_a_blob_under_a_digest_that_is_not_its_own_is_refused_though_its_hmac_is_right(
    tmp_path: Path,
) -> None:
    secret = encrypt(simple(tmp_path / "a"), tmp_path / "b")
    digest = manifest_of(secret)["layers"][0]["digest"]
    path = secret / "blobs" / "sha256" / digest[7:]
    path.rename(path.with_name("0" * 64))
    rewrite(secret, other_digest)
    assert await refused(secret, tmp_path / "c") is ErrorCode.IMAGE_LAYER_CORRUPT


async def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    secret = encrypt(simple(tmp_path / "a"), tmp_path / "b")
    digest = json.loads((secret / "index.json").read_bytes())["manifests"][0]["digest"]
    path = secret / "blobs" / "sha256" / digest[7:]
    path.write_bytes(path.read_bytes().replace(b"schemaVersion", b"schemaversion"))
    assert await refused(secret, tmp_path / "c") is ErrorCode.IMAGE_LAYOUT_INVALID


def test_a_changed_configuration_is_not_copied(tmp_path: Path) -> None:
    plain = simple(tmp_path / "a")
    config = manifest_of(plain)["config"]["digest"]
    path = plain / "blobs" / "sha256" / config[7:]
    path.write_bytes(path.read_bytes().replace(b"layers", b"LAYERS"))
    assert failure(lambda: encrypt(plain, tmp_path / "b")) is ErrorCode.IMAGE_LAYER_CORRUPT
    assert names(tmp_path) == ["a"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    plain = simple(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("a", "b", "link", "."):
        assert failure(functools.partial(encrypt, plain, tmp_path / name)) is ErrorCode.INVALID_REQUEST
    assert failure(lambda: encrypt(plain, tmp_path / "no" / "parent")) is ErrorCode.INVALID_REQUEST
    assert names(tmp_path) == ["a", "b", "link"]


def test_a_name_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    plain = simple(tmp_path / "a")
    with Layout(str(plain)) as layout, NewLayout(str(tmp_path / "b")) as new:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "mine").touch()
        found = images.load(layout, images.Selection())
        chosen = found.layers()
        act = functools.partial(images.encrypt, found, new, lambda _: {}, chosen, Watch())
        assert failure(act) is ErrorCode.INVALID_REQUEST
    assert names(tmp_path / "b") == ["mine"]
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("link", ["blobs", "blobs/sha256", "index.json", "oci-layout", "blob"])
def test_no_link_in_a_layout_is_followed(tmp_path: Path, link: str) -> None:
    plain = simple(tmp_path / "a")
    layer = f"blobs/sha256/{manifest_of(plain)['layers'][0]['digest'][7:]}"
    path = plain / (layer if link == "blob" else link)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert failure(lambda: encrypt(plain, tmp_path / "b")) is ErrorCode.IMAGE_LAYOUT_INVALID


def test_a_fifo_does_not_hang_it(tmp_path: Path) -> None:
    plain = simple(tmp_path / "a")
    path = plain / "blobs" / "sha256" / manifest_of(plain)["layers"][0]["digest"][7:]
    path.unlink()
    os.mkfifo(path)
    assert failure(lambda: encrypt(plain, tmp_path / "b")) is ErrorCode.IMAGE_LAYOUT_INVALID


@pytest.mark.parametrize(
    "digest",
    ["sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "sha512:" + "a" * 128, "", "sha256:" + "a" * 65],
)
def test_a_digest_is_never_a_path(tmp_path: Path, digest: str) -> None:
    plain = simple(tmp_path / "a")
    rewrite(plain, lambda manifest: manifest["layers"][0].update(digest=digest))
    assert failure(lambda: load(plain)) is ErrorCode.IMAGE_LAYOUT_INVALID


@pytest.mark.parametrize(
    "mark",
    [b"", b"{}", b'{"imageLayoutVersion":"2.0.0"}', b'{"imageLayoutVersion":"1.0.0"' + b" " * 5000 + b"}"],
)
def test_another_kind_of_folder_is_refused(tmp_path: Path, mark: bytes) -> None:
    plain = simple(tmp_path / "a")
    (plain / "oci-layout").write_bytes(mark)
    assert failure(lambda: load(plain)) is ErrorCode.IMAGE_LAYOUT_INVALID
    assert failure(lambda: load(tmp_path / "none")) is ErrorCode.IMAGE_LAYOUT_INVALID


def test_manifests_are_bounded_in_number_size_and_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker(tmp_path / "a")
    one = maker.manifest([PLAINTEXT])
    deep = one
    for _ in range(limits.IMAGE_NESTING + 1):
        deep = maker.nested([deep])
    maker.index(deep)
    assert failure(lambda: load(maker.root)) is ErrorCode.IMAGE_LAYOUT_INVALID
    maker.index(*[one] * (limits.IMAGE_MANIFESTS_MAX + 1))
    assert failure(lambda: load(maker.root)) is ErrorCode.IMAGE_LAYOUT_INVALID
    maker.index(*[maker.nested([one] * 400)] * 2)
    assert failure(lambda: load(maker.root)) is ErrorCode.IMAGE_LAYOUT_INVALID
    maker.index(*[one] * 4)
    monkeypatch.setattr(limits, "IMAGE_DOCUMENTS_MAX", 3 * one["size"])
    assert failure(lambda: load(maker.root)) is ErrorCode.IMAGE_LAYOUT_INVALID
    maker.index({**one, "size": limits.IMAGE_DOCUMENT_MAX + 1})
    assert failure(lambda: load(maker.root)) is ErrorCode.IMAGE_LAYOUT_INVALID


@unhurried
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(("manifests", "digest", "size", "platform", "annotations")), inner
            )
        ),
    ),
    st.integers(0, 5),
)
def test_only_our_error_escapes_a_document(value: Any, cut: int) -> None:
    data = json.dumps(value).encode()
    data = data[: len(data) - cut]

    def read() -> None:
        document = Document.read(data, "index.json")
        document.descriptors("manifests", 10)
        document.descriptor("config")

    assert failure(read) is ErrorCode.IMAGE_LAYOUT_INVALID  # there is never a config


@unhurried
@given(
    st.dictionaries(st.text(max_size=5), st.text('<>&"\\\u2028aé\n', max_size=6) | st.integers() | st.none()),
    st.sampled_from([None, 2, 3, 4]),
    st.booleans(),
)
def test_a_document_is_written_as_it_was_read(
    value: dict[str, Any], indent: int | None, newline: bool
) -> None:
    separators = None if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=False)
    for escaped in (text, text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")):
        data = (escaped + ("\n" if newline else "")).encode()
        assert json.loads(Document.read(data, "x").write()) == value
        if "\u2028" not in text and value:
            assert Document.read(data, "x").write() == data


def test_a_layer_that_fails_calls_the_others_off(tmp_path: Path) -> None:
    plain = simple(tmp_path / "a", *(bytes([n]) * 100 for n in range(30)))
    path = plain / "blobs" / "sha256" / manifest_of(plain)["layers"][7]["digest"][7:]
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(AgentError) as caught:
        encrypt(plain, tmp_path / "b")
    assert caught.value.detail.startswith("layer 7 ")
    assert names(tmp_path) == ["a"]


async def test_layers_in_parallel_give_the_same(tmp_path: Path) -> None:
    plain = simple(tmp_path / "a", *(os.urandom(n * 1000) for n in range(12)))
    secret = encrypt(plain, tmp_path / "b")
    for jobs in (1, 3, 16):
        with Layout(str(secret)) as layout, NewLayout(str(tmp_path / f"c{jobs}")) as new:
            found = images.load(layout, images.Selection())
            images.decrypt(found, new, await keys(found), Watch(), jobs=jobs)
        assert blobs(tmp_path / f"c{jobs}") == blobs(plain)


def test_names_of_annotations() -> None:
    # cdh.md 6.4
    assert OURS == "org.opencontainers.image.enc.keys.provider.attestation-agent"
    assert JWE == PREFIX + "jwe" == "org.opencontainers.image.enc.keys.jwe"
    assert (INDEX, MANIFEST) == (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
    )
    assert Wrapper(None, "", ()).annotations is not None
