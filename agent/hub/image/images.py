"""Encrypting and decrypting the images of a layout (cdh.md 6.4)."""

from __future__ import annotations

import os
import re
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import standard_decode, standard_encode
from agent.hub.image import layer
from agent.hub.image.documents import INDEXES, MANIFESTS, REF_NAME, Descriptor, Document, sha256
from agent.hub.image.options import read_options
from agent.hub.image.wrapping import is_wrapping

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from agent.hub.image.layout import Layout, NewLayout
    from agent.secret import Secret

SUFFIX: Final = "+encrypted"
PUBLIC_OPTIONS: Final = "org.opencontainers.image.enc.pubopts"
LAYER_TYPES: Final = frozenset(
    f"application/vnd.oci.image.layer.{kind}v1.tar{compression}"
    for kind in ("", "nondistributable.")
    for compression in ("", "+gzip", "+zstd")
)
_SELECTION: Final = re.compile(r"sha256:[0-9a-f]{64}")


class Selection(msgspec.Struct, frozen=True):
    """Which images of a layout are meant; empty members select everything.

    Attributes:
        tag: annotation ``org.opencontainers.image.ref.name`` in ``index.json``.
        digest: of a manifest or an index named in ``index.json``.
        platform: ``os/architecture[/variant]`` within an index.
    """

    tag: str = ""
    digest: str = ""
    platform: str = ""


class Layer(msgspec.Struct, frozen=True):
    """One layer of one manifest.

    Attributes:
        number: position in the manifest, from 0.
        descriptor: as in the manifest.
        manifest: digest of the manifest.
    """

    number: int
    descriptor: Descriptor
    manifest: str

    @property
    def name(self) -> str:
        """For errors and lists."""
        return f"layer {self.number} ({self.descriptor.digest})"

    @property
    def encrypted(self) -> bool:
        """Whether it has to be decrypted before use."""
        return self.descriptor.media_type.endswith(SUFFIX)

    @property
    def encryptable(self) -> bool:
        """Whether its media type has an encrypted form (cdh.md 6.4)."""
        return self.descriptor.media_type in LAYER_TYPES


class Node(msgspec.Struct):
    """A blob that ``index.json`` leads to: an index, a manifest, or something this program only copies.

    Attributes:
        descriptor: what pointed at it.
        document: its content; None for what is only copied.
        children: of an index.
        layers: of a manifest.
        others: blobs of a manifest that are no layers: its configuration.
    """

    descriptor: Descriptor
    document: Document | None = None
    children: list[Node] = msgspec.field(default_factory=list)
    layers: tuple[Layer, ...] = ()
    others: tuple[Descriptor, ...] = ()

    def walk(self) -> Iterator[Node]:
        """This one and all below."""
        yield self
        for child in self.children:
            yield from child.walk()


class Images(msgspec.Struct):
    """The selected part of a layout.

    Attributes:
        layout: where it is.
        index: ``index.json``, with nothing but the selection.
        nodes: what it leads to.
    """

    layout: Layout
    index: Document
    nodes: list[Node]

    def manifests(self) -> list[Node]:
        """Every manifest, in order."""
        return [node for top in self.nodes for node in top.walk() if node.layers]

    def layers(self) -> list[Layer]:
        """Every layer once, however many manifests share it."""
        found: dict[Descriptor, Layer] = {}
        for node in self.manifests():
            for one in node.layers:
                found.setdefault(one.descriptor, one)
        return list(found.values())


def load(layout: Layout, selection: Selection) -> Images:
    """Read the manifests of a layout; layers are not opened.

    Raises:
        AgentError: IMAGE_LAYOUT_INVALID, also when the selection finds nothing; INVALID_REQUEST.
    """
    if selection.digest and not _SELECTION.fullmatch(selection.digest):
        raise AgentError(ErrorCode.INVALID_REQUEST, "a digest is sha256: and 64 hexadecimal digits")
    index = Document.read(layout.index(), f"{layout.path}/index.json")
    entries = index.descriptors("manifests", limits.IMAGE_MANIFESTS_MAX)
    if selection.tag or selection.digest:
        entries = (_select(layout, entries, selection),)
    reader = _Reader(layout)
    nodes = [reader.read(entry, 0) for entry in entries]
    if selection.platform:
        nodes = [node for node in nodes if _prune(node, selection.platform, top=True)]
    index.keep("manifests", [node.descriptor for node in nodes])
    if selection.platform and not nodes:
        raise AgentError(ErrorCode.IMAGE_LAYOUT_INVALID, f"{layout.path}: no image for {selection.platform}")
    return Images(layout, index, nodes)


def _select(layout: Layout, entries: Iterable[Descriptor], selection: Selection) -> Descriptor:
    for entry in entries:
        tagged = not selection.tag or entry.annotation(REF_NAME) == selection.tag
        if tagged and selection.digest in {"", entry.digest}:
            return entry
    wanted = (
        f"{':' + selection.tag if selection.tag else ''}{'@' + selection.digest if selection.digest else ''}"
    )
    raise AgentError(ErrorCode.IMAGE_LAYOUT_INVALID, f"{layout.path}: index.json has no {wanted}")


def _prune(node: Node, platform: str, *, top: bool = False) -> bool:
    """Drop what is for other platforms; whether anything is left. An image alone need not name its own."""
    if node.descriptor.media_type not in INDEXES or node.document is None:
        own = node.descriptor.platform
        return bool(node.layers) and (own == platform or own.startswith(platform + "/") or (top and not own))
    node.children = [child for child in node.children if _prune(child, platform)]
    node.document.keep("manifests", [child.descriptor for child in node.children])
    return bool(node.children)


class _Reader:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._left = limits.IMAGE_MANIFESTS_MAX
        self._bytes_left = limits.IMAGE_DOCUMENTS_MAX

    def read(self, descriptor: Descriptor, depth: int) -> Node:
        # T-IMGKEY-22: indexes that name one manifest thousands of times, or manifests that fill the memory.
        self._left -= 1
        self._bytes_left -= descriptor.size if descriptor.media_type in INDEXES | MANIFESTS else 0
        if depth > limits.IMAGE_NESTING or self._left < 0 or self._bytes_left < 0:
            raise AgentError(
                ErrorCode.IMAGE_LAYOUT_INVALID,
                f"{self._layout.path}: manifests are too many, too large or too deeply nested",
            )
        if descriptor.media_type in INDEXES:
            return self._index(descriptor, depth)
        if descriptor.media_type in MANIFESTS:
            return self._manifest(descriptor)
        return Node(descriptor)

    def _document(self, descriptor: Descriptor) -> Document:
        return Document.read(self._layout.document(descriptor), f"manifest {descriptor.digest}")

    def _index(self, descriptor: Descriptor, depth: int) -> Node:
        document = self._document(descriptor)
        entries = document.descriptors("manifests", limits.IMAGE_MANIFESTS_MAX)
        return Node(descriptor, document, [self.read(entry, depth + 1) for entry in entries])

    def _manifest(self, descriptor: Descriptor) -> Node:
        document = self._document(descriptor)
        layers = document.descriptors("layers", limits.IMAGE_LAYERS_MAX)
        return Node(
            descriptor,
            document,
            layers=tuple(Layer(n, found, descriptor.digest) for n, found in enumerate(layers)),
            others=(document.descriptor("config"),),
        )


def encrypt(
    images: Images,
    target: NewLayout,
    wrap: Callable[[Secret], Mapping[str, str]],
    chosen: Collection[Layer],
    watch: layer.Watch,
    *,
    jobs: int = 0,
) -> dict[Descriptor, Descriptor]:
    """Copy ``images`` to ``target`` with the chosen layers encrypted, each with a key of its own.

    Args:
        images: what :func:`load` found.
        target: the new layout; finished by this.
        wrap: private options to annotations, names and values.
        chosen: layers from :meth:`Images.layers`.
        watch: progress in bytes, and how to call it off.
        jobs: layers at a time; 0 for one each core, at most ``limits.IMAGE_JOBS``.

    Returns:
        Old and new descriptors of everything that changed, layers and manifests.

    Raises:
        AgentError: IMAGE_LAYER_CORRUPT, IMAGE_LAYOUT_INVALID, INVALID_REQUEST, CANCELLED.
        OSError: reading or writing.
    """

    def one(item: Layer) -> Descriptor:
        old = item.descriptor
        with images.layout.open(old, item.name) as blob, target.stage() as staged:
            made = layer.encrypt(blob, staged.file, watch)
            staged.commit(made.digest)
        try:
            added = {PUBLIC_OPTIONS: standard_encode(made.public), **wrap(made.private)}
        finally:
            made.private.wipe()
        return replace(
            old,
            media_type=old.media_type + SUFFIX,
            digest=made.digest,
            annotations=(*old.annotations, *added.items()),
        )

    return _transform(images, target, dict.fromkeys(chosen, one), watch, jobs)


def decrypt(
    images: Images,
    target: NewLayout,
    keys: Mapping[Layer, Secret],
    watch: layer.Watch,
    *,
    jobs: int = 0,
) -> dict[Descriptor, Descriptor]:
    """Copy ``images`` to ``target`` with layers decrypted; nothing appears unless every verdict is good.

    Args:
        images: what :func:`load` found.
        target: the new layout; finished by this.
        keys: private options of each layer to decrypt.
        watch: progress in bytes, and how to call it off.
        jobs: layers at a time; 0 for one each core, at most ``limits.IMAGE_JOBS``.

    Returns:
        Old and new descriptors of everything that changed, layers and manifests.

    Raises:
        AgentError: IMAGE_LAYER_CORRUPT, IMAGE_KEY_MALFORMED, IMAGE_LAYOUT_INVALID, INVALID_REQUEST,
            CANCELLED.
        OSError: reading or writing.
    """

    def one(item: Layer) -> Descriptor:
        old = item.descriptor
        options = read_options(public_options(item), keys[item])
        try:
            with images.layout.open(old, item.name) as blob, target.stage() as staged:
                digest = layer.decrypt(blob, staged.file, options, watch)
                staged.commit(digest)
        finally:
            options.key.wipe()
        kept = tuple(
            pair for pair in old.annotations if pair[0] != PUBLIC_OPTIONS and not is_wrapping(pair[0])
        )
        return replace(old, media_type=old.media_type.removesuffix(SUFFIX), digest=digest, annotations=kept)

    return _transform(images, target, dict.fromkeys(keys, one), watch, jobs)


def public_options(item: Layer) -> bytes:
    """The public options of an encrypted layer, JSON.

    Raises:
        AgentError: IMAGE_LAYOUT_INVALID.
    """
    found = item.descriptor.annotation(PUBLIC_OPTIONS)
    try:
        if found is None:
            raise ValueError
        return standard_decode(found)
    except ValueError:
        raise AgentError(
            ErrorCode.IMAGE_LAYOUT_INVALID, f"{item.name}: no annotation {PUBLIC_OPTIONS} in base64"
        ) from None


def work(images: Images) -> int:
    """Bytes that :func:`encrypt` and :func:`decrypt` go through."""
    return sum(one.descriptor.size for one in images.layers())


def _transform(
    images: Images,
    target: NewLayout,
    tasks: Mapping[Layer, Callable[[Layer], Descriptor]],
    watch: layer.Watch,
    jobs: int,
) -> dict[Descriptor, Descriptor]:
    def copy(item: Layer) -> Descriptor:
        _copy(images.layout, target, item.descriptor, item.name, watch)
        return item.descriptor

    whole: dict[Layer, Callable[[Layer], Descriptor]] = dict.fromkeys(images.layers(), copy)
    whole.update(tasks)
    changes = {item.descriptor: new for item, new in _all(whole, watch, jobs).items()}
    for top in images.nodes:
        _rewrite(images.layout, target, top, changes)
    images.index.replace("manifests", changes)
    target.finish(images.index.write())
    return {old: new for old, new in changes.items() if old != new}


def _all(
    tasks: Mapping[Layer, Callable[[Layer], Descriptor]], watch: layer.Watch, jobs: int
) -> dict[Layer, Descriptor]:
    """Several layers at a time, the largest first; the first failure calls the others off."""
    count = jobs or min(len(os.sched_getaffinity(0)), limits.IMAGE_JOBS)
    order = sorted(tasks, key=lambda item: -item.descriptor.size)
    with ThreadPoolExecutor(count, "layer") as pool:
        futures = {item: pool.submit(tasks[item], item) for item in order}
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        except BaseException:
            watch.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        failed = [item for item in order if futures[item] in done and futures[item].exception()]
        for item in sorted(failed, key=lambda item: item.number)[:1]:
            error = futures[item].exception()
            if error is not None:
                watch.stop.set()
                pool.shutdown(cancel_futures=True)
                raise error
    return {item: future.result() for item, future in futures.items()}


def _copy(layout: Layout, target: NewLayout, descriptor: Descriptor, name: str, watch: layer.Watch) -> None:
    with layout.open(descriptor, name) as blob:
        if layout.link(descriptor, blob, target.blobs):
            layer.digest(blob, watch=watch)
            return
        with target.stage() as staged:
            staged.commit(layer.digest(blob, staged.file, watch))


def _rewrite(layout: Layout, target: NewLayout, node: Node, changes: dict[Descriptor, Descriptor]) -> None:
    """Write a node anew, those below it first, and note what became of it."""
    for child in node.children:
        _rewrite(layout, target, child, changes)
    quiet = layer.Watch()
    for other in node.others:
        _copy(layout, target, other, f"configuration {other.digest}", quiet)
    if node.document is None:
        _copy(layout, target, node.descriptor, f"blob {node.descriptor.digest}", quiet)
        return
    node.document.replace("layers" if node.layers or node.others else "manifests", changes)
    content = node.document.write()
    if sha256(content) == node.descriptor.digest:
        content = layout.document(node.descriptor)
    digest = target.put(content)
    changes[node.descriptor] = replace(node.descriptor, digest=digest, size=len(content))
