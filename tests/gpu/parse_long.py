"""On a GPU, with torch: the far end of 32768 tokens beside transformers, and answers, as JSON.

parse_long.py FOLDER SETTINGS: a model is made in the folder; SETTINGS are a capture's, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "host"))
from long_context import CONTEXT, errors
from parse_eager import SIZES
from parse_models import answer, save

from parse_runtime.capture.record import Settings

QUESTION = "".join(f"{number} and " for number in range(3600))
OPTIONS: list[dict[str, Any]] = [
    {"prompt": text, "max_new_tokens": 40, "max_rounds": 0} for text in (QUESTION[9:], "Why?")
]


def main() -> None:
    folder = Path(sys.argv[1])
    save(folder / "model", "qwen3", **{**SIZES, "max_position_embeddings": CONTEXT})
    settings = Settings(**json.loads(sys.argv[2]))
    report = {
        "logits": errors(folder / "tiny", "cuda"),
        "texts": [answer(settings, options, "cuda")["text"] for options in OPTIONS],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
