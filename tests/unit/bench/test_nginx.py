"""The row beside nginx where there is no nginx."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import nginx
from tests.bench.children import BenchError
from tests.bench.figures import Figures
from tests.bench.parts import Bench
from tests.bench.plan import Plan


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(nginx, "_program", lambda: None)
    return Bench(Path(), None, "", Plan(), Figures(), None, None)  # type: ignore[arg-type]  # nothing is asked


async def test_its_package_is_named(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    (line,) = await nginx.against_nginx(run)
    assert "apt-get install nginx-light" in line
    assert run.figures.flat() == {}


async def test_ci_has_it(run: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(BenchError, match="nginx-light"):
        await nginx.against_nginx(run)
