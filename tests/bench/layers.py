"""An image layer of 1 GiB: the cipher against OpenSSL's on one core, and the whole command.

Both sides are shown at their best: whatever else the machine does makes either only slower.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from agent.config import limits
from agent.hub.image import images, layer
from agent.hub.image.layout import Layout, NewLayout
from agent.hub.image.options import LayerOptions, read_options
from agent.hub.image.wrapping import Wrapper, offline, wrappings
from agent.secret import Secret
from tests.bench.children import BenchError
from tests.unit.hub.image.support import Maker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.parts import Bench

SIZE: Final = 1 << 30
MB: Final = 1e6
KID: Final = "kbs:///default/image-kek/bench"

# A process of its own, and a small one: a child's peak begins with its parent's size.
PEAK: Final = """
import json, resource, subprocess, sys, time
begin = time.perf_counter()
status = subprocess.run(sys.argv[1:]).returncode
seconds = time.perf_counter() - begin
kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"status": status, "seconds": seconds, "peak_mb": kib / 1024}))
"""


async def layers(run: Bench) -> None:
    """Decrypt one layer of 1 GiB again and again."""
    with tempfile.TemporaryDirectory(prefix="coco-bench-") as name:
        folder = Path(name).resolve()
        kek = os.urandom(32)
        (folder / "kek").write_bytes(kek)
        await asyncio.to_thread(_make, folder, kek)
        openssl, ours, hashed, whole, peak = [], [], [], [], 0.0
        with _opened(folder, kek) as (blob, options):
            for _ in range(run.plan.layers):
                openssl.append(await asyncio.to_thread(_openssl))
                ours.append(await asyncio.to_thread(_decrypt, folder, blob, options, hashed=False))
                hashed.append(await asyncio.to_thread(_decrypt, folder, blob, options, hashed=True))
        for _ in range(max(2, run.plan.layers // 2)):
            seconds, used = await _command(folder)
            whole.append(seconds)
            peak = max(peak, used)
    run.figures.put("layer_decrypt_mb_s", SIZE / MB / min(ours))
    run.figures.put("layer_decrypt_vs_openssl", min(openssl) / min(ours))
    run.figures.put("layer_decrypt_peak_mb", peak)
    run.figures.put("layer_openssl_mb_s", SIZE / MB / min(openssl))
    run.figures.put("layer_hashed_mb_s", SIZE / MB / min(hashed))
    run.figures.put("image_decrypt_mb_s", SIZE / MB / min(whole))


def _make(folder: Path, kek: bytes) -> None:
    """A layout with one encrypted layer."""
    maker = Maker(folder / "plain")
    maker.index(maker.manifest([os.urandom(limits.MIB) * (SIZE // limits.MIB)]))
    with Layout(str(folder / "plain")) as layout, NewLayout(str(folder / "secret")) as new:
        found = images.load(layout, images.Selection())
        wrapper = Wrapper(Secret(kek), KID, ())
        images.encrypt(found, new, wrapper.annotations, found.layers(), layer.Watch())
    shutil.rmtree(folder / "plain")


@contextmanager
def _opened(folder: Path, kek: bytes) -> Iterator[tuple[layer.Blob, LayerOptions]]:
    with Layout(str(folder / "secret")) as layout:
        (one,) = images.load(layout, images.Selection()).layers()
        (way,) = wrappings(one.descriptor.annotations)
        ask = offline(Secret(kek))(way.content)
        try:
            ask.send(None)  # type: ignore[attr-defined]
        except StopIteration as done:
            private = done.value
        with layout.open(one.descriptor, one.name) as blob:
            # Whoever pulls a layer has compared its blob's digest on the way in.
            yield (
                layer.Blob(blob.file, blob.size, blob.name),
                read_options(images.public_options(one), private),
            )


def _openssl() -> float:
    """Seconds of one core for AES-256-CTR and HMAC-SHA256 of as many bytes, in memory."""
    data, into = bytearray(os.urandom(limits.IMAGE_CHUNK)), bytearray(limits.IMAGE_CHUNK)
    begin = time.perf_counter()
    context = Cipher(AES(bytes(32)), CTR(bytes(16))).decryptor()
    for _ in range(SIZE // len(data)):
        context.update_into(data, into)
    mac = hmac.new(bytes(32), digestmod="sha256")
    for _ in range(SIZE // len(data)):
        mac.update(data)
    return time.perf_counter() - begin


def _decrypt(folder: Path, blob: layer.Blob, options: LayerOptions, *, hashed: bool) -> float:
    """Seconds from opening the target until it has its name, after the verdict.

    The target's pages are those of the run before: a virtual machine that has given pages back to its host
    waits more than a second for another GiB of them, whoever writes it.
    """
    staged, final = folder / "staged", folder / "layer"
    if final.exists():
        final.rename(staged)
    begin = time.perf_counter()
    file = os.open(staged, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        layer.decrypt(blob, file, options, hashed=hashed)
        staged.rename(final)
        return time.perf_counter() - begin
    finally:
        os.close(file)


async def _command(folder: Path) -> tuple[float, float]:
    """Seconds and peak MiB of ``coco-agent image decrypt``."""
    words = (str(Path(sys.executable).parent / "coco-agent"), "image", "decrypt", "--quiet")
    paths = (str(folder / "secret"), str(folder / "again"), "--key", str(folder / "kek"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", PEAK, *words, *paths, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    said = json.loads(output)
    if said["status"] != 0:
        raise BenchError(f"coco-agent image decrypt ended with status {said['status']}")
    await asyncio.to_thread(shutil.rmtree, folder / "again")
    return said["seconds"], said["peak_mb"]
