"""Settings that every test shares."""

from __future__ import annotations

from hypothesis import settings

# No deadline: torch's first call of a kind is slow.  Derandomised: a run of the tests is repeatable.
settings.register_profile("xvlm", deadline=None, derandomize=True)
settings.load_profile("xvlm")
