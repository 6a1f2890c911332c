"""What the image was made of, as CycloneDX JSON: the same for the same image, to the byte."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from agent import __version__
from rootfs.tools import EPOCH

if TYPE_CHECKING:
    from rootfs.bundle import Contents
    from rootfs.debian import Package
    from rootfs.wheels import Wheel

OURS: Final = "coco-guest-agent"


def render(name: str, contents: Contents, root_hash: str, distribution: str) -> str:
    """The document.

    Args:
        name: of the image.
        contents: what the bundle was made of.
        root_hash: of the image; names this document as well.
        distribution: such as ``debian-12``, for package URLs.
    """
    image = Component(
        name=name,
        version=__version__,
        type=ComponentType.FIRMWARE,
        bom_ref=name,
        properties=[Property(name="dm-verity:root_hash", value=root_hash)],
    )
    ours = Component(
        name=OURS,
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref=OURS,
        purl=PackageURL("pypi", None, OURS, __version__),
        licenses=[DisjunctiveLicense(id="Apache-2.0")],
    )
    debian = [_debian(package, distribution) for package in contents.debian]
    python = [_python(wheel, contents.openssl) for wheel in contents.python]
    bom = Bom(
        components=[ours, *debian, *python],
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, root_hash),
        metadata=BomMetaData(component=image, timestamp=datetime.fromtimestamp(EPOCH, UTC)),
    )
    bom.register_dependency(image, [ours, *debian, *python])
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _debian(package: Package, distribution: str) -> Component:
    qualifiers = {"arch": package.architecture, "distro": distribution}
    purl = PackageURL("deb", "debian", package.name, package.version, qualifiers)
    made = _library(package, purl)
    made.properties.add(Property(name="debian:source", value=package.source))
    return made


def _python(wheel: Wheel, openssl: str) -> Component:
    made = _library(wheel, PackageURL("pypi", None, wheel.name, wheel.version))
    if wheel.name == "cryptography":
        # Linked into the wheel, so that no other entry tells of it.
        linked = PackageURL("generic", None, "openssl", openssl)
        inside = Component(name="openssl", version=openssl, bom_ref=linked.to_string(), purl=linked)
        made.components.add(inside)
    return made


def _library(package: Package | Wheel, purl: PackageURL) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=purl.to_string(),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
    )
