"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# No test asserts a speed: a loaded machine is no failure.
settings.register_profile(
    "kitaru", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
# For campaigns: pytest --hypothesis-profile=long
settings.register_profile("long", settings.get_profile("kitaru"), max_examples=2000)
settings.load_profile("kitaru")
