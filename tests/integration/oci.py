"""Small OCI image layouts, and a real skopeo to work on them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
TAG = "1"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PROVIDER_KEYS = "org.opencontainers.image.enc.keys.provider.attestation-agent"


@dataclass(frozen=True, slots=True)
class Layout:
    """One image in an OCI layout."""

    folder: Path

    @property
    def reference(self) -> str:
        return f"oci:{self.folder}:{TAG}"

    def put(self, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / "blobs" / "sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def blob(self, digest: str) -> bytes:
        return (self.folder / "blobs" / digest.replace(":", "/")).read_bytes()

    def complete(self) -> bool:
        index = self.folder / "index.json"
        return index.exists() and bool(json.loads(index.read_bytes())["manifests"])

    def manifest(self) -> dict[str, Any]:
        index = json.loads((self.folder / "index.json").read_bytes())
        found: dict[str, Any] = json.loads(self.blob(index["manifests"][0]["digest"]))
        return found

    def set_manifest(self, manifest: dict[str, Any]) -> None:
        entry = {"mediaType": MANIFEST, **self.put(json.dumps(manifest).encode())}
        entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def layers(self) -> list[bytes]:
        return [self.blob(layer["digest"]) for layer in self.manifest()["layers"]]

    def media_types(self) -> set[str]:
        return {layer["mediaType"] for layer in self.manifest()["layers"]}


def build(folder: Path, contents: list[bytes]) -> Layout:
    """An image with one layer, of one file, per content."""
    layout = Layout(folder)
    layers, identities = [], []
    for number, content in enumerate(contents):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            member = tarfile.TarInfo(f"file-{number}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        identities.append(f"sha256:{hashlib.sha256(archive.getvalue()).hexdigest()}")
        layers.append({"mediaType": GZIP, **layout.put(gzip.compress(archive.getvalue(), mtime=0))})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": identities},
    }
    layout.set_manifest(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **layout.put(json.dumps(config).encode())},
            "layers": layers,
        }
    )
    return layout


@dataclass(frozen=True, slots=True)
class Skopeo:
    """A real skopeo with a home of its own."""

    binary: str
    home: Path

    def providers(self, **kinds: Any) -> Mapping[str, str]:
        """Environment with one key provider, such as ``grpc="127.0.0.1:50000"``."""
        file = self.home / f"providers-{os.urandom(3).hex()}.json"
        file.write_text(json.dumps({"key-providers": {"attestation-agent": kinds}}))
        return {"OCICRYPT_KEYPROVIDER_CONFIG": str(file)}

    async def copy(
        self, source: Layout, target: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> tuple[Layout, int, str]:
        """Copy to a layout ``target``; that layout, exit status and standard error."""
        layout = Layout(self.home / target)
        process = await asyncio.create_subprocess_exec(
            *(self.binary, "--insecure-policy", "copy", "--quiet", *options),
            *(source.reference, layout.reference),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.home), **(environment or {})},
        )
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        return layout, process.returncode or 0, errors.decode()


async def find_skopeo(home: Path) -> Skopeo:
    """A skopeo that knows key providers; otherwise the test is skipped, in CI it fails."""
    why = "no skopeo that knows key providers: scripts/debian-skopeo .tools"
    for binary in (str(ROOT / ".tools" / "skopeo"), shutil.which("skopeo")):
        if binary is None or not Path(binary).exists():
            continue
        skopeo = Skopeo(binary, home)
        nowhere = Layout(Path("/nonexistent"))
        _, _, errors = await skopeo.copy(nowhere, "probe", "--encryption-key", "provider:x")
        if "not recognized" not in errors:
            return skopeo
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
