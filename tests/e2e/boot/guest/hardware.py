"""An SEV-SNP machine's devices: carries what the drivers ask to the host."""

from __future__ import annotations

import os

from tests.e2e.vm.guest import firmware
from tests.e2e.vm.guest.ports import PLATFORM_PORT, open_port

READY = "/run/hardware"
"""Not empty when the devices are there."""


def main() -> None:
    """Serve as long as the machine runs."""
    firmware.run(
        open_port(PLATFORM_PORT), "sev_guest", os.open(READY, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
    )


if __name__ == "__main__":
    main()
