"""How many examples a property test tries: `TSSTATS_TEST_EXAMPLES` times as many as by default."""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("TSSTATS_TEST_EXAMPLES", "1"))
# A machine with other work meets no deadline, and one test may use its database for many examples.
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def examples(number: int, **others: int) -> settings:
    """Settings of a test that tries so many examples by default."""
    return settings(max_examples=number * TIMES, deadline=None, suppress_health_check=SLOW, **others)


PROFILE = "tsstats"
"""What tests with settings of hypothesis' own have; loaded by conftest.py."""

settings.register_profile(PROFILE, examples(100))
