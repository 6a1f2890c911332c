"""One file per provider: its played services, under the name ``FAKES``. New files are found by themselves."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.integration.kms.stand import Fake


def every_fake() -> tuple[type[Fake], ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(fake for name in names for fake in import_module(f"{__name__}.{name}").FAKES)
