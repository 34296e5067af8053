"""Prints, as JSON, wrong values of the kernels of gathered rows and draft trees."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
import drafts_cases
import gather_cases

print(json.dumps(gather_cases.wrong("cuda") | drafts_cases.wrong("cuda")))
