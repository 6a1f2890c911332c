"""Settings for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Shared machines stall: time is measured in tests/bench/, never judged here.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
