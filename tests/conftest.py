"""Settings for all tests."""

from __future__ import annotations

import os
import resource

from hypothesis import HealthCheck, settings

# Shared machines stall: time is measured in tests/bench/, never judged here.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

# A shell's usual 1024 descriptors are few for a thousand callers and the agent in one process. The agent's
# own programs raise the limit by themselves (agent/hardening.py).
_SOFT, _HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(_HARD, max(_SOFT, 8192)), _HARD))

# Tests make files that the agent must be able to trust; with an umask of 0002 others could write to them.
# What it does under other umasks is tested where that matters.
os.umask(0o022)
