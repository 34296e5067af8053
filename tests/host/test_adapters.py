"""The adapter for vLLM, on a stand-in for vLLM, its graphs and the recorder; memory by name."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from foundryc.adapters import memory, vllm
from foundryrt.errors import FoundryError

CPU = torch.device("cpu")


class Mode(Enum):
    NONE, PIECEWISE, FULL = range(3)


@dataclass(frozen=True)
class Desc:
    num_tokens: int
    num_reqs: int
    uniform_token_count: int = 1


def parallel(world: int, data: int) -> SimpleNamespace:
    return SimpleNamespace(world_size=world, data_parallel_size=data)


class Part:
    """An object of the engine's package."""

    __module__ = "vllm.somewhere"

    def __init__(self, **parts: object) -> None:
        vars(self).update(parts)


class Slotted:
    __module__ = "vllm.somewhere"
    __slots__ = ("tensor", "unset")


def test_memory_is_named_by_the_nearest_path():
    shared, deep, slotted = torch.zeros(4), torch.zeros(3), Slotted()
    slotted.tensor = torch.zeros(5)
    root = Part(
        a=[Part(view=shared[1:], deep={"x": (deep,)}), slotted],
        near=shared,
        module=nn.Linear(2, 2),
        foreign=SimpleNamespace(t=torch.zeros(2)),
        empty=torch.zeros(0),
    )
    root.itself = root
    found = memory.named_memory(root, "vllm", CPU)
    assert list(found) == ["near", "a.1.tensor", "a.0.deep.x.0"]
    assert found["near"] is shared
    assert memory.storage_bytes(shared[1:]).numel() == 16
    assert memory.named_memory(root, "vllm", torch.device("meta")) == {}


def test_a_module_is_gathered_with_what_it_shares():
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 3), nn.BatchNorm1d(3))
    module.tied = module[0].weight
    module.turned = nn.Parameter(torch.randn(4, 6).t())
    before = {name: t.clone() for name, t in module.state_dict().items()}
    gathered = memory.gather(module, CPU)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    whole = gathered.memory.untyped_storage().data_ptr()
    assert {t.untyped_storage().data_ptr() for t in after.values()} == {whole}
    places = {name: (offset, strides) for name, offset, _, _, strides in gathered.layout}
    assert places["tied"] == places["0.weight"] and places["turned"][1] == [1, 6]
    assert all(offset % 512 == 0 for offset, _ in places.values())
    module.tied.data += 1
    assert torch.equal(module[0].weight, before["tied"] + 1)


class Graph:
    """As torch's: it writes what the forward pass gave when it was captured."""

    def __init__(self, keep_graph: bool = False) -> None:
        self.kept = keep_graph

    def raw_cuda_graph(self) -> int:
        assert self.kept
        return id(self)


class Engine:
    """A stand-in for the parts of vLLM that the adapter touches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path | None) -> None:
        self.captured: list[tuple[Mode, int]] = []
        engine = self

        class Manager:
            def __init__(self) -> None:
                self._capture_descs = {
                    Mode.PIECEWISE: [Desc(8, 8)],
                    Mode.FULL: [Desc(4, 4), Desc(2, 2)],
                }
                self.graphs: dict[Desc, object] = {}
                self.hidden_states: torch.Tensor | None = None
                self.pool, self.device = (0, 7), CPU
                self._graphs_captured = False
                self.vllm_config = engine.config

            def capture(self, create, description="capturing"):
                states = {}
                for mode in (Mode.PIECEWISE, Mode.FULL):
                    for desc in self._capture_descs.get(mode, []):
                        engine.captured.append((mode, desc.num_tokens))
                        states[desc] = mode
                        if mode is Mode.FULL:
                            graph = torch.cuda.CUDAGraph()
                            graph.pool = self.pool
                            self.graphs[desc] = graph
                self._graphs_captured = True
                return states

        class Runner:
            __module__ = "vllm.v1"

            def load_model(self):
                self.model = nn.Linear(3, 3)

        class Worker:
            use_v2_model_runner = True

            def init_device(self):
                self.ready = True

        hf = SimpleNamespace(to_json_string=lambda: "{}")
        model = SimpleNamespace(
            hf_config=hf, dtype=torch.float32, quantization=None, get_hidden_size=lambda: 3
        )
        self.config = SimpleNamespace(
            model_config=model, parallel_config=parallel(1, 1),
            speculative_config=None, lora_config=None,
            cache_config=SimpleNamespace(num_gpu_blocks_override=None, num_gpu_blocks=17),
        )  # fmt: skip
        for name, found in (
            ("config.compilation", {"CUDAGraphMode": Mode}),
            ("v1.worker.gpu.cudagraph_utils", {"CudaGraphManager": Manager}),
            ("v1.worker.gpu.model_runner", {"GPUModelRunner": Runner}),
            ("v1.worker.gpu_worker", {"Worker": Worker}),
        ):
            parts = f"vllm.{name}".split(".")
            for end in range(1, len(parts) + 1):
                whole = ".".join(parts[:end])
                if whole not in sys.modules:
                    monkeypatch.setitem(sys.modules, whole, ModuleType(whole))
            vars(sys.modules[f"vllm.{name}"]).update(found)
        monkeypatch.setattr(vllm, "_version", lambda: "0")
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.delenv(vllm.BUNDLE, raising=False)
        if path is not None:
            monkeypatch.setenv(vllm.BUNDLE, str(path))
        self.Manager, self.Runner, self.Worker = Manager, Runner, Worker

    def start(self) -> dict[Desc, Mode]:
        """What vLLM does at its start, up to and with its capture; what that returns."""
        self.captured.clear()
        worker, self.runner = self.Worker(), self.Runner()
        worker.vllm_config = self.config
        worker.init_device()
        assert worker.ready
        self.runner.device, self.runner.attn_groups = CPU, []
        self.runner.cudagraph_manager = self.manager = self.Manager()
        self.runner.kv_caches = [torch.zeros(6)]
        self.runner.load_model()
        return self.manager.capture(self.forward)

    def forward(self, desc: Desc, warmup: bool):
        def run(mode: Mode) -> None:
            self.manager.hidden_states[: desc.num_tokens] = desc.num_tokens

        return run, None


class Recorder:
    """Writes what it was given as JSON, in place of a bundle."""

    pool = (0, 3)

    def __init__(self, *_: object) -> None:
        self.given_: dict[str, int] = {}
        self.graphs: list[dict[str, int]] = []

    def given(self, name: str, tensor: torch.Tensor) -> None:
        self.given_[name] = tensor.untyped_storage().nbytes()

    def register(self, name: str, tensor: torch.Tensor, role: str) -> torch.Tensor:
        assert (name, role, tuple(tensor.shape)) == ("hidden_states", "output", (4, 3))
        return tensor

    def adopt(self, graph: int, outputs: dict, name: str, **key: int) -> None:
        self.graphs.append(key)

    def attach(self, name: str, data: bytes) -> None:
        self.facts = json.loads(data)

    def save(self, path: Path) -> None:
        used = {name: self.given_[name] for name in ("kv_caches.0", "model")}
        path.write_text(json.dumps({"facts": self.facts, "given": used, "graphs": self.graphs}))


class Bundle:
    @classmethod
    def open(cls, path: Path) -> Bundle:
        made = cls()
        made.found = json.loads(path.read_text())
        return made

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None: ...

    def file(self, name: str) -> bytes:
        return json.dumps(self.found["facts"]).encode()

    @property
    def manifest(self) -> SimpleNamespace:
        regions = [SimpleNamespace(name="weights", size=8, given=False)] + [
            SimpleNamespace(name=name, size=size, given=True)
            for name, size in self.found["given"].items()
        ]
        return SimpleNamespace(regions=regions)


class Session:
    """Its graphs write `value` a token into the hidden states; `closed` counts."""

    closed, wrong = 0, 0

    @classmethod
    def open(cls, path: Path, place: dict[str, torch.Tensor]) -> Session:
        made = cls()
        made.place, made.hidden, made.launched = place, torch.zeros(4, 3), []
        return made

    def wait(self) -> None: ...

    def tensor(self, name: str) -> torch.Tensor:
        return self.hidden

    def graph(self, name: str, **key: int) -> SimpleNamespace:
        def launch(stream: int) -> None:
            self.launched.append(key["num_tokens"])
            self.hidden[: key["num_tokens"]] = key["num_tokens"] + self.wrong

        return SimpleNamespace(launch=launch)

    def close(self) -> None:
        Session.closed += 1


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The adapter with its surroundings replaced; a path for the bundle."""
    monkeypatch.setattr(vllm, "Recorder", Recorder)
    monkeypatch.setattr(vllm, "Bundle", Bundle)
    monkeypatch.setattr(vllm, "Session", Session)
    monkeypatch.setattr(vllm, "from_dlpack", lambda tensor: tensor)
    stream = SimpleNamespace(cuda_stream=9)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(Session, "closed", 0)
    monkeypatch.setattr(Session, "wrong", 0)
    return monkeypatch, tmp_path / "decode.fdy"


def engine(made, bundle: bool = True) -> Engine:
    monkeypatch, path = made
    found = Engine(monkeypatch, path if bundle else None)
    vllm.register()
    vllm.register()  # vLLM does so in some processes
    return found


ALL = [(Mode.PIECEWISE, 8), (Mode.FULL, 4), (Mode.FULL, 2)]


def test_without_the_setting_nothing_changes(made):
    plain = engine(made, bundle=False)
    before = plain.Manager.capture
    plain.start()
    assert plain.captured == ALL and plain.Manager.capture is before
    assert not plain.manager.graphs[Desc(4, 4)].kept


def test_the_first_process_captures_and_saves(made):
    first = engine(made)
    states = first.start()
    assert first.captured == ALL and len(states) == 3
    saved = json.loads(made[1].read_text())
    assert [key["num_tokens"] for key in saved["graphs"]] == [4, 2]
    assert saved["given"] == {"kv_caches.0": 24, "model": 1024}
    assert saved["facts"]["blocks"] == 17
    # Only the graphs of the bundle were kept, and had their memory from the recorder.
    assert first.manager.graphs[Desc(4, 4)].pool == Recorder.pool
    assert first.manager.pool == (0, 7) and torch.cuda.CUDAGraph is Graph


def test_a_later_process_takes_them(made):
    engine(made).start()
    later = engine(made)
    states = later.start()
    assert later.captured == [(Mode.PIECEWISE, 8)] and list(states) == [Desc(8, 8)]
    assert later.config.cache_config.num_gpu_blocks_override == 17
    session = vars(later.Worker)["_foundry_adapter"]._session
    assert sorted(session.place) == ["kv_caches.0", "model"]
    assert sorted(session.launched) == [2, 4]  # both were compared with the engine's kernels
    assert later.manager.hidden_states is session.hidden
    with torch.inference_mode():  # as vLLM runs
        later.manager.graphs[Desc(2, 2)].replay()
    assert session.launched[-1] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda e: e.config.model_config.__dict__.update(dtype=torch.float16), "another dtype"),
     (lambda e: setattr(Session, "wrong", 1), "something else here, in 4 rows, by up to 1"),
     (lambda e: e.forget_cache(), "no kv_caches.0 of 24 bytes")],
)  # fmt: skip
def test_what_does_not_fit_is_said_and_captured_anew(made, change, words, caplog):
    engine(made).start()
    later = engine(made)
    load = later.Runner.load_model
    later.forget_cache = lambda: setattr(
        later.Runner, "load_model", lambda self: (load(self), setattr(self, "kv_caches", []))
    )
    change(later)
    with caplog.at_level(logging.WARNING):
        states = later.start()
    assert later.captured == ALL and len(states) == 3
    assert words in caplog.text
    assert isinstance(later.manager.graphs[Desc(4, 4)], Graph)
    assert Session.closed == (words.startswith("something"))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("parallel_config", parallel(2, 1), "one GPU"), ("parallel_config", parallel(1, 2), "one GPU"),
     ("speculative_config", object(), "speculative"), ("lora_config", object(), "LoRA")],
)  # fmt: skip
def test_an_engine_that_is_not_covered_is_left_alone(made, field, value, words, caplog):
    other = engine(made)
    setattr(other.config, field, value)
    with caplog.at_level(logging.WARNING):
        other.start()
    assert other.captured == ALL and words in caplog.text
    assert not made[1].exists()


def test_a_capture_that_cannot_be_saved_goes_on(made, caplog):
    def refuse(*_: object, **__: object) -> None:
        raise FoundryError("a node of another kind")

    made[0].setattr(Recorder, "adopt", refuse)
    first = engine(made)
    with caplog.at_level(logging.WARNING):
        states = first.start()
    assert len(states) == 3 and "not written: a node of another kind" in caplog.text
    assert not made[1].exists()


def test_a_damaged_bundle_is_said_and_left(made, caplog):
    made[1].write_text("no bundle")
    other = engine(made)
    with caplog.at_level(logging.WARNING):
        other.start()
    assert other.captured == ALL and "no graphs from it" in caplog.text
    assert made[1].read_text() == "no bundle"
