"""OCI image layouts made by hand, and the vectors of cdh.md A.3."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.hub.image import images
from agent.hub.image.images import Images, Selection
from agent.hub.image.layer import Watch
from agent.hub.image.layout import Layout, NewLayout
from agent.hub.image.wrapping import Wrapper, offline, wrappings
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEK = bytes(range(0x80, 0xA0))
KID = "kbs:///default/image-kek/1"
TAR = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
TAG = "org.opencontainers.image.ref.name"

PUBLIC = (
    b'{"cipher":"AES_256_CTR_HMAC_SHA256",'
    b'"hmac":"5sULc+Sz6So0Qoy0W5FQT7eEEuETMPS/S9wmCfPRVoQ=","cipheroptions":{}}'
)
PRIVATE = (
    b'{"symkey":"QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=","digest":"sha256:dff90087e2a95f1c093cf40e7be6ef4e99'
    b'8e21b4ea38d0b494ea2fdb2576fcfe","cipheroptions":{"nonce":"YGFiY2RlZmdoaWprbG1ubw=="}}'
)
PLAINTEXT = b"this is some data"
CIPHERTEXT = bytes.fromhex("1b4e3e4d4074b054f7fe20c55d6f5e39fd")
CIPHERTEXT_DIGEST = "sha256:4aa03eed9fe3c8670841cdd0680ed640cb2e490199b3134d94d145522512e73c"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass
class Maker:
    """Writes an image layout piece by piece."""

    root: Path
    indent: int | None = None

    def __post_init__(self) -> None:
        (self.root / "blobs" / "sha256").mkdir(parents=True)
        (self.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def dump(self, value: Any) -> bytes:
        return json.dumps(value, indent=self.indent, separators=None if self.indent else (",", ":")).encode()

    def blob(self, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        self.path(digest_of(content)).write_bytes(content)
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}

    def path(self, digest: str) -> Path:
        return self.root / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def manifest(
        self, layers: Sequence[bytes | dict[str, Any]], compression: str = "+gzip", **more: Any
    ) -> dict[str, Any]:
        made = [one if isinstance(one, dict) else self.blob(one, TAR + compression) for one in layers]
        config = self.blob(self.dump({"rootfs": {"type": "layers"}, "n": len(layers)}), CONFIG)
        body = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": made}
        return self.blob(self.dump(body), MANIFEST, **more)

    def nested(self, manifests: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
        return self.blob(self.dump(body), INDEX, **more)

    def index(self, *manifests: dict[str, Any]) -> Path:
        (self.root / "index.json").write_bytes(self.dump({"schemaVersion": 2, "manifests": list(manifests)}))
        return self.root


def simple(root: Path, *layers: bytes, tag: str = "latest") -> Path:
    """A layout with one image."""
    maker = Maker(root)
    return maker.index(maker.manifest(layers or (PLAINTEXT, b"second layer"), annotations={TAG: tag}))


def load(root: Path, **selection: str) -> Images:
    return images.load(Layout(str(root)), Selection(**selection))


def encrypt(source: Path, target: Path, wrapper: Wrapper | None = None, **selection: str) -> Path:
    wrapper = wrapper or Wrapper(Secret(KEK), KID, ())
    with Layout(str(source)) as layout, NewLayout(str(target)) as new:
        found = images.load(layout, Selection(**selection))
        chosen = [one for one in found.layers() if one.encryptable]
        images.encrypt(found, new, wrapper.annotations, chosen, Watch())
    return target


async def keys(found: Images, kek: bytes = KEK) -> dict[images.Layer, Secret]:
    made = {}
    for one in found.layers():
        if one.encrypted:
            (way,) = wrappings(one.descriptor.annotations)
            made[one] = await offline(Secret(kek))(way.content)
    return made


async def decrypt(source: Path, target: Path, **selection: str) -> Path:
    with Layout(str(source)) as layout, NewLayout(str(target)) as new:
        found = images.load(layout, Selection(**selection))
        images.decrypt(found, new, await keys(found), Watch())
    return target


def blobs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "blobs" / "sha256").iterdir()}


def rewrite(root: Path, change: Any) -> None:
    """Change the only manifest of a layout and put every digest on the way right again."""
    index = json.loads((root / "index.json").read_bytes())
    entry = index["manifests"][0]
    path = root / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
    manifest = json.loads(path.read_bytes())
    change(manifest)
    content = json.dumps(manifest).encode()
    path.unlink()
    entry.update(digest=digest_of(content), size=len(content))
    (root / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")).write_bytes(content)
    (root / "index.json").write_text(json.dumps(index))
