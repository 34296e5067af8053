"""Profiles of the property tests.

`steady`, the default, draws the same examples every time: a change fails for what it did. New ones
are looked for with `pytest --hypothesis-profile=search`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Tests keep nothing in the user's folders.
os.environ.setdefault("FOUNDRY_DEQUANTIZED_GB", "0")

# A loaded machine is slow, which says nothing about the code; pytest's own timeout ends what hangs.
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", derandomize=True, **SLOW)
settings.register_profile("search", derandomize=False, **SLOW)
settings.load_profile("steady")
