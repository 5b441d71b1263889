"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Where CI is set, property tests draw the same examples every time: a change is judged by what it changed. At a desk they
# draw anew and go on looking.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")
