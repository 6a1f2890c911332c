"""The collector's own program, with modules that misbehave; run as a script by test_worker.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from agent.tee import collector

    os._exit(collector.main("hostile_"))
