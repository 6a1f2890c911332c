"""Which image this code is in. ``python -m rootfs extension --dev`` puts another file in this one's place."""

from __future__ import annotations

from typing import Final

DEVELOPMENT: Final[bool] = False
"""The image was built for guests without a TEE: it has the sample attester, and proves nothing there.

A part of the code and no setting: what could be switched on in a production image would be, by its host.
"""

WARNING: Final = "DEVELOPMENT IMAGE: without a TEE this guest gives evidence that proves nothing"
