"""A vLLM process: starts, answers, says how long that took. Arguments: model, answers, report.

With FOUNDRY_VLLM_BUNDLE in the environment its decode graphs go into a bundle, or come from it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPAWNED = float(os.environ["SPAWNED"])
TOKENS, PROMPT = 64, 48
_REPLAYS = 10


def main(folder: Path, answers: int, report: Path) -> None:
    from vllm import LLM, SamplingParams
    from vllm.v1.worker import gpu_worker
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    imported = time.time()
    spent: dict[str, float] = {}
    seen: list[Any] = []

    def timed(owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
            began = time.time()
            result = function(self, *arguments, **named)
            spent[name] = time.time() - began
            seen.append(self)
            return result

        setattr(owner, name, wrapped)

    timed(GPUModelRunner, "load_model")
    timed(GPUModelRunner, "capture_model")
    timed(gpu_worker, "warmup_kernels")
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

    _, first = ask(prompts[:1])
    tokens, _ = ask(prompts)
    alone, together = (
        sorted(ask(some)[1] for _ in range(5))[2] / TOKENS * 1e3 for some in (prompts[:1], prompts)
    )
    found = {
        "imported_s": imported - SPAWNED,
        "ready_s": ready - SPAWNED,
        "first_answer_s": first,
        "spent_s": spent,
        "ms_per_token": alone,
        "ms_per_step_together": together,
        "tokens": tokens,
        "graph_ms": _graph_times(next(one for one in seen if isinstance(one, GPUModelRunner))),
    }
    report.write_text(json.dumps(found))


def _graph_times(runner: Any) -> dict[str, float]:
    """Milliseconds on the device of the full decode graphs of 1 and 64 tokens, by tokens."""
    import torch

    found, graphs = {}, runner.cudagraph_manager.graphs
    for tokens in (1, 64):
        graph = next(graphs[desc] for desc in graphs if desc.num_tokens == tokens)
        times = []
        for _ in range(20):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            for _ in range(_REPLAYS):
                graph.replay()
            ended.record()
            ended.synchronize()
            times.append(began.elapsed_time(ended) / _REPLAYS)
        found[str(tokens)] = sorted(times)[len(times) // 2]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
