"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# No test asserts a speed: a loaded machine is no failure.
settings.register_profile(
    "kitaru", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("kitaru")
