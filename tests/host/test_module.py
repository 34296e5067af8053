"""Recorder.module: a module's tensors in the arena, their contents from the user's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foundryc import Recorder
from foundryc.leaks import leaks
from foundryc.write import Setting
from foundryrt import Session, UsageError
from foundryrt.bundle.reader import Bundle


class Net(nn.Module):
    """Tied tables, a fused weight, a table of constants and a counter that each call advances."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.table.weight
        self.fused = nn.Parameter(torch.randn(2, 3, 4))
        self.own = nn.Parameter(torch.randn(4))
        self.register_buffer("scale", torch.randn(4))
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        hidden = self.table(tokens) * self.scale + self.own
        return self.head(hidden + self.fused.sum((0, 1)) * self.calls)


def capture(
    folder: Path,
    net: Net,
    files: list[Path] | None,
    embed: bool = False,
    settings: dict[str, Setting] | None = None,
) -> Path:
    path = folder / "net.fdy"
    with torch.no_grad(), Recorder("host", workload="net", settings=settings or {}) as recorder:
        recorder.module(net, prefix="net.", files=files)
        tokens = recorder.register("tokens", torch.zeros(3, dtype=torch.int64), role="input")
        with recorder.graph("forward") as graph:
            graph.output("scores", net(tokens))
        recorder.save(path, embed_weights=embed)
    return path


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def stored(folder: Path, net: Net) -> Path:
    """The table under its name, the fused weight in two, nothing of `own` and the buffers."""
    path = folder / "net.safetensors"
    one, two = net.fused.detach()
    tensors = {"table.weight": net.table.weight.detach(), "two": two, "one": one}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def check(path: Path, net: Net, weights: Path | None = None) -> None:
    """Two launches give what the module gives; its counter is where recording has found it."""
    net.calls.zero_()
    with Session.open(path, weights=weights) as session:
        for tokens in ([1, 2, 3], [7, 0, 7]):
            session.write("tokens", np.array(tokens))
            session.graph("forward").launch()
            with torch.no_grad():
                expected = net(torch.tensor(tokens)).numpy()
            assert session.graph("forward").read("scores").tobytes() == expected.tobytes()
        assert session.read("net.calls").tolist() == [2]


def test_a_bundle_names_nobodys_home_folder(net: Net, tmp_path: Path, monkeypatch) -> None:
    home = tmp_path / "somebody"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    settings: dict[str, Setting] = {"model": str(home / "net"), "folder": "/net", "rows": 3}
    path = capture(home, net, [stored(home, net)], settings=settings)
    assert leaks(path, [], ["somebody"]) == []
    with Session.open(path) as session:
        assert session.settings == {"model": "~/net", "folder": "/net", "rows": 3}
    check(path, net)


def test_recipes_for_what_files_hold_and_the_rest_stored(tmp_path: Path, net: Net) -> None:
    file = stored(tmp_path, net)
    path = capture(tmp_path, net, [file])
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        names = {t.name: t.role for t in manifest.tensors if t.graph == -1}
        filled = {manifest.tensors[r.tensor].name for r in manifest.weights.recipes}
        kept = next(r for r in manifest.regions if r.name == "weights")
        assert bundle.sections[kept.section].raw < 2 * net.own.nbytes + 64
    assert names == {
        "net.table.weight": "weight", "net.fused": "weight", "net.own": "weight",
        "net.scale": "state", "net.calls": "state", "tokens": "input",
    }  # fmt: skip
    assert filled == {"net.table.weight", "net.fused"}
    check(path, net)
    # The weights are the file's: it is found elsewhere, and missed.
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    file.rename(elsewhere / file.name)
    check(path, net, elsewhere)
    with pytest.raises(Exception, match="--weights"):
        Session.open(path)


@pytest.mark.parametrize("embed", [False, True])
def test_without_files_or_with_all_embedded(tmp_path: Path, net: Net, embed: bool) -> None:
    file = stored(tmp_path, net)
    path = capture(tmp_path, net, [file] if embed else None, embed)
    file.unlink()
    with Bundle.open(path) as bundle:
        assert not bundle.manifest.weights.recipes
    check(path, net)


def test_a_folder_that_the_model_names(tmp_path: Path, net: Net) -> None:
    net.name_or_path = str(stored(tmp_path, net).parent)
    with Bundle.open(capture(tmp_path, net, None)) as bundle:
        assert len(bundle.manifest.weights.recipes) == 2


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    """Conversions, transposed memory, numbers without dimensions, and types that files lack."""
    net = nn.Module()
    half = torch.randn(3, 4).half()
    net.converted = nn.Parameter(half.float())
    net.transposed = nn.Parameter(torch.randn(4, 3).T)
    net.number = nn.Parameter(torch.tensor(2.0))
    net.turned = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    net.register_buffer("flags", torch.tensor([True, False]))
    net.register_buffer("none", torch.empty(0))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    save_file({"converted": half, "transposed": net.transposed.detach().contiguous(),
               "flags": net.flags.clone()}, tmp_path / "net.safetensors")  # fmt: skip
    with torch.no_grad(), Recorder("host", workload="net", settings={}) as recorder:
        recorder.module(net, files=[tmp_path])
        with recorder.graph("g") as graph:
            graph.output("y", net.converted @ net.transposed.T * net.number)
        recorder.save(tmp_path / "net.fdy")
    with Bundle.open(tmp_path / "net.fdy") as bundle:
        manifest = bundle.manifest
        filled = {manifest.tensors[r.tensor].name for r in manifest.weights.recipes}
    assert filled == {"converted", "transposed", "flags"}
    with Session.open(tmp_path / "net.fdy") as session:
        session.graph("g").launch()
        for name, tensor in before.items():
            assert session.read(name).tobytes() == tensor.contiguous().numpy().tobytes(), name


def test_what_cannot_be_registered_is_named(tmp_path: Path, net: Net) -> None:
    with torch.device("meta"):
        net.fused = nn.Parameter(torch.empty(2, 3, 4))
    with pytest.raises(UsageError, match="fused: is on the meta device"):
        capture(tmp_path, net, None)
    with pytest.raises(UsageError, match=r"none\.safetensors: no such weight file"):
        capture(tmp_path, Net(), [tmp_path / "none.safetensors"])
    assert not (tmp_path / "net.fdy").exists()
