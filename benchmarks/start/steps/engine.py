"""A vLLM process: starts, answers, says how long that took. Arguments: model, answers, report.

With FOUNDRY_VLLM_BUNDLE in the environment its decode graphs go into a bundle, or come from it.
With the argument `both` it captures its own, too, and answers by turns with these and the bundle's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SPAWNED = float(os.environ["SPAWNED"])
TOKENS, PROMPT, TURNS = 64, 48, 5
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

    runner = next(one for one in seen if isinstance(one, GPUModelRunner))
    if "both" in sys.argv:
        found = _by_turns(runner, partial(_timed, ask, prompts))
    else:
        _, first = ask(prompts[:1])
        found = {
            "imported_s": imported - SPAWNED,
            "ready_s": ready - SPAWNED,
            "first_answer_s": first,
            "spent_s": spent,
            "tokens": ask(prompts)[0],
            **_timed(ask, prompts),
            "graph_ms": _graph_times(runner),
        }
    report.write_text(json.dumps(found))


def _timed(ask: Callable[[Any], tuple[list[list[int]], float]], prompts: Any) -> dict[str, Any]:
    """Medians: a token of one answer alone, a step of all answers."""
    alone, together = (
        sorted(ask(some)[1] for _ in range(5))[2] / TOKENS * 1e3 for some in (prompts[:1], prompts)
    )
    return {"ms_per_token": alone, "ms_per_step_together": together}


def _by_turns(runner: Any, timed: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What each turn measures with graphs of vLLM's own and with the bundle's, in one process.

    From one process to the next a token may take half as long again, whose graphs ever it has.
    """
    from vllm.config.compilation import CUDAGraphMode
    from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

    manager = runner.cudagraph_manager
    graphs = {"bundle": (manager.graphs, manager.hidden_states)}
    asked, adapted = manager._capture_descs, CudaGraphManager.capture
    manager.graphs, manager.hidden_states = {}, None
    manager._capture_descs = {CUDAGraphMode.FULL: asked[CUDAGraphMode.FULL]}
    CudaGraphManager.capture = adapted.__wrapped__
    runner.capture_model()
    manager._capture_descs, CudaGraphManager.capture = asked, adapted
    graphs["plain"] = (manager.graphs, manager.hidden_states)

    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "bundle": []}
    for _ in range(TURNS):
        for way, own in runs.items():
            manager.graphs, manager.hidden_states = graphs[way]
            own.append(timed() | {"graph_ms": _graph_times(runner)})
    return runs


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
