from __future__ import annotations

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from rootfs import sbom
from rootfs.bundle import Contents
from rootfs.debian import Package
from rootfs.image import SALT, Verity
from rootfs.wheels import Wheel

NAME = "an-image"
CONTENTS = Contents(
    (Package("libssl3", "3.0.22-1~deb12u2", "amd64", "openssl", "a" * 64),),
    (Wheel("cryptography", "50.0.2", "b" * 64), Wheel("yarl", "1.25.1", "c" * 64)),
    "4.0.3",
)
ROOT_HASH = "d" * 64


def test_the_same_image_has_the_same_document() -> None:
    first, second = (sbom.render(NAME, CONTENTS, ROOT_HASH, "debian-12") for _ in range(2))
    assert first == second
    assert (
        json.loads(first)["serialNumber"]
        != json.loads(sbom.render(NAME, CONTENTS, "e" * 64, "debian-12"))["serialNumber"]
    )


def test_it_is_what_the_schema_says() -> None:
    assert (
        JsonStrictValidator(SchemaVersion.V1_6).validate_str(
            sbom.render(NAME, CONTENTS, ROOT_HASH, "debian-12")
        )
        is None
    )


def test_scanners_find_packages_and_what_a_wheel_hides() -> None:
    document = json.loads(sbom.render(NAME, CONTENTS, ROOT_HASH, "debian-12"))
    found = {one["name"]: one for one in document["components"]}
    assert found["libssl3"]["purl"] == "pkg:deb/debian/libssl3@3.0.22-1~deb12u2?arch=amd64&distro=debian-12"
    assert found["libssl3"]["properties"] == [{"name": "debian:source", "value": "openssl"}]
    assert found["yarl"]["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
    assert found["cryptography"]["components"][0]["version"] == "4.0.3"
    depends = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    assert len(depends[NAME]) == 4


def test_numbers_as_kata_wants_them() -> None:
    parameters = dict(part.split("=") for part in Verity(ROOT_HASH, 5120).parameters().split(","))
    sizes = {"data_blocks": "5120", "data_block_size": "4096", "hash_block_size": "4096"}
    assert parameters == {"root_hash": ROOT_HASH, "salt": SALT, **sizes}
    assert len(bytes.fromhex(SALT)) == 32
