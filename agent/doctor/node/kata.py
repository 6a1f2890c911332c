"""Kata on the node: its settings for one TEE, and what containerd and CRI-O hand to it.

Paths are those of Kata's installer (kata-deploy) and of packages.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.config import toml
from agent.doctor.finding import Finding, Verdict
from agent.doctor.node.findings import judged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.doctor.node.host import Node

AREA: Final = "kata"
_FOLDERS: Final = (
    "opt/kata/share/defaults/kata-containers",
    "usr/share/defaults/kata-containers",
    "usr/share/kata-containers/defaults",
    "etc/kata-containers",
)
_RUNTIMES: Final = (
    "etc/containerd/config.toml",
    "etc/containerd/conf.d/*.toml",
    "etc/containerd/config.toml.d/*.toml",
    "opt/kata/containerd/config.d/*.toml",
    "var/lib/rancher/*/agent/etc/containerd/config*.toml",
    "var/lib/rancher/*/agent/etc/containerd/config*.toml.d/*.toml",
    "etc/crio/crio.conf.d/*",
)
_ANNOTATIONS: Final = ("kernel_params", "cc_init_data")
"""What docs/kubernetes.md puts into pods, after ``io.katacontainers.config.hypervisor.``."""
_ANNOTATION: Final = "io.katacontainers.config.hypervisor.cc_init_data"
_INSTALL: Final = (
    "Install Kata with its confidential shims: helm chart kata-deploy, values try-kata-tee.values.yaml."
)
_FILES: Final = ("path", "kernel", "image", "initrd", "firmware")
_SOCKETS: Final = "run/*nydus*/containerd-nydus-grpc.sock"


class Handler(NamedTuple):
    """One runtime handler, as a RuntimeClass names it.

    Attributes:
        name: e.g. ``kata-qemu-snp``.
        annotations: patterns of pod annotations that reach Kata; None where the engine passes all (CRI-O).
        pull: what has the guest pull its images: a snapshotter, or CRI-O's switch; or empty.
    """

    name: str
    annotations: tuple[str, ...] | None
    pull: str


def look(node: Node, tee: str) -> Iterator[Finding]:
    """Settings, then handlers, of every shim for one TEE."""
    settings = sorted(_settings(node, tee))
    for path in settings:
        yield _judge(node, path, _hypervisor(_documents(path)))
    if not settings:
        yield Finding(AREA, "settings", Verdict.BAD, f"no configuration-*-{tee}*.toml", _INSTALL)
    handlers = list(dict.fromkeys(_handlers(node, tee)))
    for handler in handlers:
        yield _passes(handler)
    if not handlers:
        yield Finding(AREA, "handler", Verdict.BAD, f"containerd and CRI-O know none for {tee}", _INSTALL)
    else:
        yield _pull(node, handlers, forced=any(_forced(_documents(path)) for path in settings))


def _settings(node: Node, tee: str) -> set[Path]:
    """The real files: the installer's links would be seen twice."""
    found = set()
    for folder in _FOLDERS:
        for path in node.path(folder).rglob("configuration-*.toml"):
            if tee in path.stem.split("-"):
                found.add(path.resolve())
    return found


def _documents(path: Path) -> list[dict[str, object]]:
    """The file, then the drop-in files that change it."""
    return [_toml(each) for each in (path, *sorted(path.parent.glob("config.d/*.toml")))]


def _hypervisor(documents: list[dict[str, object]]) -> dict[str, object]:
    """The hypervisor's table, the last word on each key; empty when there is none."""
    merged: dict[str, object] = {}
    for document in documents:
        for table in _tables(document, "hypervisor"):
            merged.update(table)
    return merged


def _forced(documents: list[dict[str, object]]) -> bool:
    """Whether Kata pulls in the guest whatever the engine says; its two runtimes spell that differently."""
    merged: dict[str, object] = {}
    for document in documents:
        runtime = document.get("runtime")
        merged.update(runtime if isinstance(runtime, dict) else {})
    listed = _strings(merged.get("experimental"))
    return merged.get("experimental_force_guest_pull") is True or "force_guest_pull" in listed


def _toml(path: Path) -> dict[str, object]:
    try:
        return toml.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _tables(table: dict[str, object], name: str) -> list[dict[str, object]]:
    """The tables below one of that name."""
    inner = table.get(name)
    return [each for each in inner.values() if isinstance(each, dict)] if isinstance(inner, dict) else []


def _strings(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _judge(node: Node, path: Path, table: dict[str, object]) -> Finding:
    if not table:
        return Finding(AREA, path.name, Verdict.BAD, "cannot be read as Kata's settings", _INSTALL)
    named = {key: value for key in _FILES if isinstance(value := table.get(key), str) and value}
    missing = sorted(value for value in named.values() if not node.has(value))
    allowed = _strings(table.get("enable_annotations"))
    refused = [name for name in _ANNOTATIONS if not any(_matches(pattern, name) for pattern in allowed)]
    if table.get("confidential_guest") is not True:
        return Finding(
            AREA,
            path.name,
            Verdict.BAD,
            "confidential_guest is not true",
            "Set confidential_guest = true in it.",
        )
    if missing:
        return Finding(
            AREA, path.name, Verdict.BAD, f"names what is not there: {', '.join(missing)}", _INSTALL
        )
    if refused:
        return Finding(
            AREA,
            path.name,
            Verdict.WARNING,
            f"refuses pods with the annotation {' or '.join(refused)}",
            "Add what your pods use to enable_annotations. NVIDIA's take cc_init_data only, by design.",
        )
    return Finding(AREA, path.name, Verdict.GOOD, "confidential, its files are there")


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


def _handlers(node: Node, tee: str) -> Iterator[Handler]:
    for pattern in _RUNTIMES:
        for path in sorted(node.path("").glob(pattern)):
            document = _toml(path)
            for plugin in _tables(document, "plugins"):
                for name, one in _named(plugin.get("containerd"), tee):
                    pull = str(one.get("snapshotter") or "")
                    passed = _strings(one.get("pod_annotations"))
                    yield Handler(name, passed, pull if "nydus" in pull else "")
            for part in _tables(document, "crio"):
                for name, one in _named(part, tee):
                    pull = "CRI-O (runtime_pull_image)" if one.get("runtime_pull_image") is True else ""
                    yield Handler(name, None, pull)


def _named(table: object, tee: str) -> Iterator[tuple[str, dict[str, object]]]:
    runtimes = table.get("runtimes") if isinstance(table, dict) else None
    for name, one in runtimes.items() if isinstance(runtimes, dict) else ():
        if isinstance(one, dict) and tee in name.split("-"):
            yield name, one


def _passes(handler: Handler) -> Finding:
    """Containerd drops every annotation that no pattern names, and says nothing."""
    passed = handler.annotations
    good = passed is None or any(fnmatchcase(_ANNOTATION, pattern) for pattern in passed)
    return judged(
        AREA,
        f"handler {handler.name}",
        "known to the engine" if good else "pod annotations do not reach Kata",
        good=good,
        next_step='Set pod_annotations = ["io.katacontainers.*"] for it in containerd\'s configuration.',
    )


def _pull(node: Node, handlers: list[Handler], *, forced: bool) -> Finding:
    """Images have to be unpacked in the guest: a snapshotter asks for that, CRI-O, or Kata's settings."""
    asked = sorted({handler.pull for handler in handlers if handler.pull})
    if any("nydus" in pull for pull in asked) and not list(node.path("").glob(_SOCKETS)):
        return Finding(
            AREA,
            "guest pull",
            Verdict.BAD,
            f"containerd asks {', '.join(asked)}, which does not run",
            "Start the nydus snapshotter that kata-deploy installed: systemctl status '*nydus*'",
        )
    if asked or forced:
        seen = f"by {', '.join(asked)}" if asked else "forced in Kata's settings"
        return Finding(AREA, "guest pull", Verdict.GOOD, seen)
    return Finding(
        AREA,
        "guest pull",
        Verdict.WARNING,
        "not set up: the host would unpack the images",
        "Use the nydus snapshotter, or experimental_force_guest_pull = true in Kata's settings.",
    )
