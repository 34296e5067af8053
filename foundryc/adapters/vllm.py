"""vLLM's decode graphs: captured into a bundle by one process of it, taken from there by others.

    FOUNDRY_VLLM_BUNDLE=decode.fdy vllm serve ...

A plugin of vLLM (entry point `vllm.general_plugins`), so vLLM itself is unchanged. The first
process finds no bundle, and captures as it always does, its graphs' own memory in the recorder's
arena; then it saves them. Later ones give the bundle their weights, caches and buffers as regions,
by name, and launch its graphs where vLLM would have captured. What does not fit is said in the
log, and captured as always.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from foundryc.adapters.memory import Gathered, gather, named_memory, storage_bytes
from foundryc.recorder import Recorder
from foundryrt.bundle.reader import Bundle
from foundryrt.errors import FoundryError
from foundryrt.graph import Graph
from foundryrt.session import Session

BUNDLE = "FOUNDRY_VLLM_BUNDLE"
_FACTS, _MODEL, _HIDDEN = "vllm.json", "model", "hidden_states"
_INSTALLED = "_foundry_adapter"
_REMEDY = "remove it, and the next start captures it again"
_LOG = logging.getLogger("vllm.foundry")  # below vLLM's own, which prints it
States = dict[Any, Any]
Capture = Callable[..., States]


def register() -> None:
    """Called by vLLM in each of its processes; nothing happens without FOUNDRY_VLLM_BUNDLE."""
    path = os.environ.get(BUNDLE)
    if not path:
        return
    from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu_worker import Worker

    if hasattr(Worker, _INSTALLED):
        return  # vLLM may call this more than once
    adapter = Adapter(Path(path))
    setattr(Worker, _INSTALLED, adapter)
    _before(Worker, "init_device", adapter.begin)
    _after(GPUModelRunner, "load_model", adapter.take_weights)
    capture = CudaGraphManager.capture

    @wraps(capture)
    @torch.inference_mode()
    def captured(manager: Any, create_forward: Any, *more: Any, **named: Any) -> States:
        return adapter.capture(partial(capture, manager), manager, create_forward, *more, **named)

    CudaGraphManager.capture = captured


def _before(owner: type, name: str, call: Callable[[Any], None]) -> None:
    method = getattr(owner, name)

    @wraps(method)
    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        call(self)
        return method(self, *arguments, **named)

    setattr(owner, name, wrapped)


def _after(owner: type, name: str, call: Callable[[Any], None]) -> None:
    method = getattr(owner, name)

    @wraps(method)
    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        result = method(self, *arguments, **named)
        call(self)
        return result

    setattr(owner, name, wrapped)


class Adapter:
    """What is between one worker of vLLM and the bundle at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, Any] = {}
        """Of the bundle that is there,"""
        self._wanted: dict[str, int] = {}
        """and the sizes of the regions that it is to be given."""
        self._recorder: Recorder | None = None
        self._runner: Any = None
        self._weights: Gathered | None = None
        self._session: Session | None = None

    def begin(self, worker: Any) -> None:
        """Before the worker's first use of the GPU: read the bundle, or begin to record one."""
        if problem := _unfit(worker):
            _LOG.warning("%s: no graphs from it, or into it: %s", self._path, problem)
            return
        try:
            if self._path.exists():
                with Bundle.open(self._path) as bundle:
                    self._facts = json.loads(bundle.file(_FACTS))
                    self._wanted = {r.name: r.size for r in bundle.manifest.regions if r.given}
                # Kernels are told the cache's shape, and vLLM measures it at each start.
                cache = worker.vllm_config.cache_config
                cache.num_gpu_blocks_override = (
                    cache.num_gpu_blocks_override or self._facts["blocks"]
                )
            else:
                self._recorder = Recorder("cuda", "vllm", {"vllm": _version()})
        except (FoundryError, ValueError) as error:
            _LOG.warning("%s: no graphs from it, or into it: %s", self._path, error)

    def take_weights(self, runner: Any) -> None:
        """Once they are loaded: have them in one piece, which a bundle can be given."""
        if self._recorder is not None or self._facts:
            self._runner, self._weights = runner, gather(runner.model, runner.device)

    def capture(
        self, capture: Capture, manager: Any, create_forward: Any, *more: Any, **named: Any
    ) -> States:
        """In place of vLLM's own: what it returns, with `manager.graphs` filled."""
        from vllm.config.compilation import CUDAGraphMode

        asked = dict(manager._capture_descs)
        full = asked.get(CUDAGraphMode.FULL, [])

        def only_of(*modes: Any) -> States:
            manager._capture_descs = {mode: asked[mode] for mode in modes if mode in asked}
            try:
                return capture(create_forward, *more, **named)
            finally:
                manager._capture_descs = asked

        if self._weights is None or not full or manager is not self._runner.cudagraph_manager:
            return capture(create_forward, *more, **named)
        states = only_of(CUDAGraphMode.PIECEWISE)
        if self._facts:
            try:
                self._restore(manager, full, create_forward)
                return states
            except FoundryError as error:
                manager.graphs, manager.hidden_states = {}, None
                if self._session is not None:
                    self._session.close()
                _LOG.warning("%s: its graphs are not used: %s", self._path, error)
            return states | only_of(CUDAGraphMode.FULL)
        return states | self._record(manager, full, partial(only_of, CUDAGraphMode.FULL))

    def _record(self, manager: Any, full: Sequence[Any], capture: Callable[[], States]) -> States:
        recorder = self._recorder
        assert recorder is not None and self._weights is not None
        memory = self._memory()
        try:
            for name, tensor in memory.items():
                recorder.given(name, tensor)
            manager.hidden_states = recorder.register(_HIDDEN, _hidden(manager, full), "output")
        except FoundryError as error:
            _LOG.warning("%s: not written: %s", self._path, error)
            return capture()
        pool, kind = manager.pool, torch.cuda.CUDAGraph
        manager.pool = recorder.pool
        setattr(torch.cuda, "CUDAGraph", partial(kind, keep_graph=True))  # noqa: B010 (mypy)
        try:
            states = capture()
        finally:
            manager.pool = pool
            setattr(torch.cuda, "CUDAGraph", kind)  # noqa: B010 (mypy)
        try:
            for desc in full:
                recorder.adopt(manager.graphs[desc].raw_cuda_graph(), {}, "full", **_key(desc))
            recorder.attach(_FACTS, json.dumps(self._described(manager)).encode())
            recorder.save(self._path)
            _LOG.info("%s: holds %d graphs", self._path, len(full))
        except FoundryError as error:
            _LOG.warning("%s: not written: %s", self._path, error)
        return states

    def _restore(self, manager: Any, full: Sequence[Any], create_forward: Any) -> None:
        """Fill `manager.graphs` from the bundle; FoundryError where something does not fit."""
        here = json.loads(json.dumps(self._described(manager)))
        for name, value in here.items():
            if self._facts.get(name) != value:
                raise FoundryError(f"it was captured with another {name}; {_REMEDY}")
        memory = self._memory()
        for name, size in self._wanted.items():
            if name not in memory or memory[name].untyped_storage().nbytes() != size:
                raise FoundryError(f"there is no {name} of {size} bytes here; {_REMEDY}")
        place = {name: storage_bytes(memory[name]) for name in self._wanted}
        self._session = session = Session.open(self._path, place=place)
        session.wait()
        manager.hidden_states = from_dlpack(session.tensor(_HIDDEN))
        manager.graphs = {desc: _Replay(session.graph("full", **_key(desc))) for desc in full}
        for desc in dict.fromkeys((full[0], full[-1])):
            _check(manager, desc, create_forward)
        manager._graphs_captured = True
        _LOG.info("%s: %d graphs taken from it", self._path, len(full))

    def _memory(self) -> dict[str, torch.Tensor]:
        """The engine's memory by name."""
        assert self._weights is not None
        memory = named_memory(self._runner, "vllm", self._runner.device)
        own = self._weights.memory.untyped_storage().data_ptr()
        found = {n: t for n, t in memory.items() if t.untyped_storage().data_ptr() != own}
        return found | {_MODEL: self._weights.memory}

    def _described(self, manager: Any) -> dict[str, Any]:
        """What must be equal in the process that captures and in one that takes the graphs."""
        assert self._weights is not None
        config = manager.vllm_config
        model = config.model_config.hf_config.to_json_string()
        return {
            "vllm": _version(),
            "model": sha256(model.encode()).hexdigest(),
            "dtype": str(config.model_config.dtype),
            "quantization": config.model_config.quantization,
            "attention": [
                group.backend.get_name() for groups in self._runner.attn_groups for group in groups
            ],
            "blocks": config.cache_config.num_gpu_blocks,
            "weights": self._weights.layout,
            "graphs": [_key(desc) for desc in manager._capture_descs[_full()]],
        }


def _hidden(manager: Any, full: Sequence[Any]) -> torch.Tensor:
    """What vLLM makes at its first capture: a row a token."""
    config = manager.vllm_config.model_config
    rows = max(desc.num_tokens for desc in full)
    return torch.zeros(rows, config.get_hidden_size(), dtype=config.dtype, device=manager.device)


class _Replay:
    """A graph of the bundle, as vLLM launches its own."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def replay(self) -> None:
        """Queue it on torch's current stream."""
        self._graph.launch(torch.cuda.current_stream().cuda_stream)


def _check(manager: Any, desc: Any, create_forward: Any) -> None:
    """FoundryError unless a graph gives the bits that its kernels give when they are launched one
    by one here."""
    from vllm.config.compilation import CUDAGraphMode

    forward, _ = create_forward(desc, warmup=False)
    forward(CUDAGraphMode.NONE)
    wanted = manager.hidden_states[: desc.num_tokens].clone()
    manager.hidden_states.zero_()
    create_forward(desc, warmup=False)  # writes the inputs again: kernels count down in some
    manager.graphs[desc].replay()
    found = manager.hidden_states[: desc.num_tokens]
    unlike = (found.view(torch.uint8) != wanted.view(torch.uint8)).any(dim=-1)
    if unlike.any():
        raise FoundryError(
            f"its graph of {desc.num_tokens} tokens gives something else here, in"
            f" {int(unlike.sum())} rows, by up to {float((found - wanted).abs().max()):.3g}"
        )


def _unfit(worker: Any) -> str:
    """Why a worker's graphs cannot go into a bundle; empty where they can."""
    config = worker.vllm_config
    if not getattr(worker, "use_v2_model_runner", False):
        return "only those of vLLM's second model runner (VLLM_USE_V2_MODEL_RUNNER=1) are known"
    parallel = config.parallel_config
    if parallel.world_size > 1 or parallel.data_parallel_size > 1:
        return "only those of one GPU are"
    if config.speculative_config is not None or config.lora_config is not None:
        return "those of speculative decoding and LoRA are not"
    return ""


def _key(desc: Any) -> dict[str, int]:
    return {
        "num_tokens": desc.num_tokens,
        "num_reqs": desc.num_reqs or 0,
        "tokens_each": desc.uniform_token_count or 0,
    }


def _full() -> Any:
    from vllm.config.compilation import CUDAGraphMode

    return CUDAGraphMode.FULL


def _version() -> str:
    from importlib.metadata import version

    return version("vllm")
