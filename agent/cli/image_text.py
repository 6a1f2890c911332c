"""What ``coco-agent image`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli import text

if TYPE_CHECKING:
    from argparse import Namespace

    from agent.hub.image import images
    from agent.hub.image.documents import Descriptor


def summary(
    arguments: Namespace,
    found: images.Images,
    chosen: list[images.Layer],
    changes: dict[Descriptor, Descriptor],
) -> int:
    """What became of which layer and manifest; the exit status."""
    manifests = [
        {
            "platform": node.descriptor.platform,
            "before": node.descriptor.digest,
            "after": changes.get(node.descriptor, node.descriptor).digest,
        }
        for node in found.manifests()
    ]
    if arguments.json:
        layers = [
            {
                "number": one.number,
                "manifest": one.manifest,
                "before": one.descriptor.digest,
                "after": changes[one.descriptor].digest,
                "size": one.descriptor.size,
            }
            for one in chosen
        ]
        text.print_json({"manifests": manifests, "layers": layers})
    elif not arguments.quiet:
        print(f"{len(chosen)} of {len(found.layers())} layers {arguments.action}ed")
        for manifest in manifests:
            same = manifest["after"] == manifest["before"]
            print(f"manifest {manifest['before']} is {'unchanged' if same else 'now ' + manifest['after']}")
    return text.EXIT_OK


def described(one: images.Layer) -> dict[str, object]:
    """One layer, for JSON."""
    return {
        "number": one.number,
        "digest": one.descriptor.digest,
        "size": one.descriptor.size,
        "media_type": one.descriptor.media_type,
        "encrypted": one.encrypted,
        "keys": [{"scheme": scheme, "for": who} for scheme, who in _ways(one)],
    }


def _ways(one: images.Layer) -> list[tuple[str, str]]:
    from agent.hub.image.wrapping import describe, wrappings  # noqa: PLC0415

    return [(way.scheme, describe(way)) for way in wrappings(one.descriptor.annotations)]


def print_manifest(tag: str | None, node: images.Node) -> None:
    """One manifest and its layers, for people."""
    head = " ".join(part for part in (_plain(tag or ""), _plain(node.descriptor.platform)) if part)
    print(f"manifest {node.descriptor.digest}{' ' + head if head else ''}")
    rows = []
    for one in node.layers:
        keys = "; ".join(f"{_plain(scheme)} {_plain(who)}" for scheme, who in _ways(one)) or "-"
        kind = _plain(one.descriptor.media_type.removeprefix("application/vnd.oci.image.layer."))
        rows.append((str(one.number), str(one.descriptor.size), kind, one.descriptor.digest[:19], keys))
    print(text.table(rows, ("LAYER", "BYTES", "TYPE", "DIGEST", "KEYS")))


def _plain(said: str) -> str:
    # T-IMGKEY-29: names in an image are somebody else's text: no control characters reach the terminal.
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in said[:200])
