"""A vLLM process: starts, answers, says how long each took. Arguments: model's folder, answers.

With FOUNDRY_VLLM_BUNDLE in the environment, through foundryc/adapters/vllm.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SPAWNED = float(os.environ["SPAWNED"])
TOKENS, PROMPT = 64, 48


def main(folder: Path, answers: int) -> None:
    from vllm import LLM, SamplingParams
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    imported = time.time()
    spent: list[float] = []
    capture = GPUModelRunner.capture_model

    def timed(runner: Any) -> int:
        began = time.time()
        size = capture(runner)
        spent.append(time.time() - began)
        return size

    GPUModelRunner.capture_model = timed
    engine = LLM(
        model=str(folder), load_format="dummy", skip_tokenizer_init=True, max_model_len=4096,
        gpu_memory_utilization=0.5, enable_prefix_caching=False, disable_log_stats=True,
    )  # fmt: skip
    ready = time.time()
    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    prompts: list[Any] = [
        {"prompt_token_ids": [(17 * answer + 31 * i) % 150000 + 1 for i in range(PROMPT)]}
        for answer in range(answers)
    ]

    def ask(some: list[Any]) -> tuple[list[list[int]], float]:
        began = time.time()
        outputs = engine.generate(some, sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs], time.time() - began

    first = ask(prompts[:1])[1]
    tokens, _ = ask(prompts)
    alone = min(ask(prompts[:1])[1] for _ in range(3))
    together = min(ask(prompts)[1] for _ in range(3))
    report = {
        "imported_s": imported - SPAWNED,
        "ready_s": ready - SPAWNED,
        "capture_s": sum(spent),
        "first_answer_s": first,
        "ms_per_token": {"1": alone / TOKENS * 1e3, str(answers): together / TOKENS * 1e3},
        "tokens": tokens,
    }
    print(json.dumps(report))


main(Path(sys.argv[1]), int(sys.argv[2]))
