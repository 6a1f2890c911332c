"""An image is built anew when, and only when, something it is made of has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest

from rootfs import extension
from rootfs.image import Verity
from rootfs.product import Built, Product

if TYPE_CHECKING:
    from pathlib import Path

FILES = (
    "pyproject.toml", "requirements.lock", "requirements-dev.lock",
    "agent/a.py", "agent/room/b.py", "rootfs/c.py", "systemd/a.service",
)  # fmt: skip


def test_a_development_image_lies_beside_the_other() -> None:
    one, other = extension.PRODUCT, extension.DEV_PRODUCT
    assert not set(one.names) & set(other.names)
    assert all("-dev" in name for name in (*other.names, other.name))
    assert not any("-dev" in name for name in (*one.names, one.name))


@pytest.fixture
def product(tmp_path: Path) -> Product:
    for name in FILES:
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return Product("an-image", "image", also=("systemd/a.service",), root=tmp_path / "checkout")


@pytest.fixture
def output(tmp_path: Path, product: Product) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    for name in product.names:
        (folder / name).touch()
    built = Built(Verity("0" * 64, 1), 2, 1, product.sources())
    (folder / product.summary).write_bytes(msgspec.json.encode(built))
    return folder


def test_a_finished_build_of_these_sources_is_current(product: Product, output: Path) -> None:
    built = product.current(output)
    assert built is not None
    assert (built.erofs_bytes, built.verity.data_blocks) == (1, 1)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_source_is_noticed_whatever_its_time(name: str, product: Product, output: Path) -> None:
    path = product.root / name
    path.write_text("another")
    assert product.current(output) is None


def test_a_source_more_or_less_is_noticed(product: Product, output: Path) -> None:
    more = product.root / "agent" / "new.py"
    more.touch()
    assert product.current(output) is None
    more.unlink()
    assert product.current(output) is not None
    (product.root / "agent" / "a.py").unlink()
    assert product.current(output) is None


def test_half_a_build_is_none(product: Product, output: Path) -> None:
    for name in product.names:
        content = (output / name).read_bytes()
        (output / name).unlink()
        assert product.current(output) is None, name
        (output / name).write_bytes(content)


@pytest.mark.parametrize("summary", [b"", b'{"verity": {}}', b"{"])
def test_what_another_version_left_is_none(summary: bytes, product: Product, output: Path) -> None:
    (output / product.summary).write_bytes(summary)
    assert product.current(output) is None


def test_where_the_checkout_is_makes_no_difference(product: Product, tmp_path: Path) -> None:
    before = product.sources()
    moved = product.root.rename(tmp_path / "elsewhere")
    assert replace(product, root=moved).sources() == before
