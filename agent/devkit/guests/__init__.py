"""Guests without hardware: the interfaces of each TEE below a folder, evidence signed by throw-away vendors.

The attesters find there what they find on a real machine: configfs-tsm, measurement registers, a TPM, the
instance metadata service. Nothing of theirs is replaced.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.devkit.guests.base import MissingToolError, SimulatedGuest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractContextManager

__all__ = ["TEES", "MissingToolError", "SimulatedGuest", "guest"]

_PLACES: Final[Mapping[str, tuple[str, str]]] = {
    "snp": ("confidential", "snp"),
    "tdx": ("confidential", "tdx"),
    "az-snp-vtpm": ("vtpm", "az_snp"),
    "az-tdx-vtpm": ("vtpm", "az_tdx"),
    "tpm": ("vtpm", "plain"),
}

TEES: Final = tuple(_PLACES)
"""Wire strings of the TEEs that can be simulated."""


@asynccontextmanager
async def guest(tee: str, init_digest: bytes = b"") -> AsyncIterator[SimulatedGuest]:
    """A guest of a TEE, for as long as the context lasts.

    Args:
        tee: one of :data:`TEES`.
        init_digest: of the init-data the host launched it with. Goes into HOSTDATA or MRCONFIGID; a vTPM
            knows of it only when the guest extends PCR 8 (``agent.tee.binding``).

    Raises:
        MissingToolError: this machine cannot simulate it.
    """
    module, function = _PLACES[tee]
    make: Callable[[Path, bytes], AbstractContextManager[SimulatedGuest]] = getattr(
        import_module(f"{__name__}.{module}"), function
    )
    with tempfile.TemporaryDirectory(prefix="coco-guest-") as folder:
        context = make(Path(folder).resolve(), init_digest)
        made = await asyncio.to_thread(context.__enter__)
        try:
            yield made
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)
