"""Runs the kernels of gathered rows and draft trees in Triton's interpreter; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import drafts_cases
import gather_cases

print(json.dumps(gather_cases.wrong("cpu") | drafts_cases.wrong("cpu")))
