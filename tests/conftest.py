"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Machines that run these tests are shared: slowness of one example says nothing about the code.
settings.register_profile("studio", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("studio")
