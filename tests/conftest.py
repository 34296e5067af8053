"""Profiles of the property tests, and what runs side by side (`make test` runs two workers).

`steady`, the default, draws the same examples every time: a change fails for what it did. New ones
are looked for with `pytest --hypothesis-profile=search`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A loaded machine is slow, which says nothing about the code; pytest's own timeout ends what hangs.
SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("steady", derandomize=True, **SLOW)
settings.register_profile("search", derandomize=False, **SLOW)
settings.load_profile("steady")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file's tests on one worker, and all that use the stand-in driver on one."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        group = folder if folder == "fakecuda" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
