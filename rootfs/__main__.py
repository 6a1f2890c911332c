"""``python -m rootfs``."""

from __future__ import annotations

import sys

from rootfs.cli import main

sys.exit(main())
