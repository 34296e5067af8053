"""Drafted tokens change the speed, never the answer: extend passes against plain decoding."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import GREEDY, eager, quiet, save, save_head

from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Batch, Sampling
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.kernels.attend_step import attend_step_parts
from parse_runtime.kernels.drafts import accept
from parse_runtime.kernels.rotate import Rotation
from parse_runtime.models import decoder
from parse_runtime.signature.tree import DraftTree

MAX_LEN = 96
PROMPTS = {2: [5, 17, 200, 3], 0: [9] * 11, 3: [31, 77]}
WAYS = {
    "draft": {"speculate": "draft"},
    "chain": {"eagle": "good"},
    "tree": {"eagle": "good", "eagle_depth": 3, "eagle_width": 4},
    "partial": {"eagle": "partial", "eagle_depth": 3, "eagle_width": 2},
    "random head": {"eagle": "random", "eagle_width": 2},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    # Two of its three layers see a window that drafts cross.
    window = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
    save(folder / "target", "qwen3", **window)
    quiet(folder / "target", 0.01)
    save(folder / "draft", "llama", num_hidden_layers=1)
    save_head(folder / "good", folder / "target", good=True)
    save_head(folder / "partial", folder / "target", good=True, drafts=200)
    save_head(folder / "random", folder / "target")
    return folder


def opened(folders: Path, way: dict[str, object]) -> GraphTarget:
    values = {k: str(folders / str(v)) if k == "eagle" else v for k, v in way.items()}
    if way.get("speculate"):
        values["draft"] = str(folders / "target")
    s = Settings(
        model=str(folders / "target"), max_len=MAX_LEN, slots=4, decode="1,4", prefill="8",
        verify="24x2", **values,
    )  # fmt: skip
    return eager(s)[1]


def decoded(target: GraphTarget, slot: int, length: int, sampling: Sampling) -> list[int]:
    sequence = list(PROMPTS[slot])
    sequence.append(target.prefill(slot, sequence, 0, sampling))
    while len(sequence) < length:
        position = len(sequence) - 1
        sequence += target.decode(Batch([slot], sequence[-1:], [position], [sampling]))
    return sequence


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.9, 0.95, 5)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("way", WAYS)
def test_extend_passes_give_what_decoding_gives(
    folders: Path, way: str, sampling: Sampling
) -> None:
    plain = opened(folders, {})
    expected = {slot: decoded(plain, slot, MAX_LEN, sampling) for slot in PROMPTS}
    target = opened(folders, WAYS[way])
    found = {slot: list(prompt) for slot, prompt in PROMPTS.items()}
    for slot, sequence in found.items():
        sequence.append(target.prefill(slot, sequence, 0, sampling))
    passes = made = 0
    while slots := [slot for slot, sequence in found.items() if len(sequence) < MAX_LEN]:
        # Sequences leave and enter the batch in turn.
        slots = slots[passes % 2 :] or slots
        lengths = [len(found[slot]) for slot in slots]
        last = [found[slot][-1] for slot in slots]
        ends = [n - 1 for n in lengths]
        results = target.extend(Batch(slots, last, ends, [sampling] * len(slots)))
        passes += len(slots)
        for slot, tokens in zip(slots, results, strict=True):
            found[slot] += tokens
            made += len(tokens)
    for slot, sequence in found.items():
        assert sequence[:MAX_LEN] == expected[slot][:MAX_LEN]
    if way in ("draft", "chain", "tree") and sampling == GREEDY:
        assert made / passes > 1.5
    print(f"{way}: {made / passes:.2f} tokens a pass")


@pytest.mark.parametrize("way", WAYS)
def test_a_cropped_and_verified_sequence_goes_on(folders: Path, way: str) -> None:
    plain, target = opened(folders, {}), opened(folders, WAYS[way])
    prompt, draft = [7, 8, 9], list(range(40, 56))
    for model in (plain, target):
        model.prefill(1, prompt, 0, GREEDY)
        model.extend(Batch([1], [50], [3], [GREEDY]))
        model.verify(1, Verification(draft, 3, [9, 19], [60, 61]))
    kept = (prompt + draft)[:9]
    expected = list(kept)
    while len(expected) < 40:
        expected += plain.decode(Batch([1], expected[-1:], [len(expected) - 1], [GREEDY]))
    found = list(kept)
    while len(found) < 40:
        found += target.extend(Batch([1], found[-1:], [len(found) - 1], [GREEDY]))[0]
    assert found[:40] == expected


@settings(max_examples=300)
@given(data=st.data(), depth=st.integers(1, 4), width=st.integers(1, 4))
def test_the_longest_agreeing_path_is_accepted(data: st.DataObject, depth: int, width: int) -> None:
    tree = DraftTree(depth, width)
    parents = [0]
    for row, level in enumerate(tree.depths[1:], start=1):
        first = 0 if level == 1 else 1 + (level - 2) * width
        last = 0 if level == 1 else first + width - 1
        parents.append(data.draw(st.integers(first, last), label=f"parent of {row}"))
    numbers = st.lists(st.integers(0, 2), min_size=tree.rows, max_size=tree.rows)
    tokens, choices = data.draw(numbers), data.draw(numbers)
    room = data.draw(st.integers(0, tree.rows))
    paths: list[list[int]] = [[0]]
    for row in range(1, tree.rows):
        paths.append([*paths[parents[row]], row])
    agreeing = [
        path for path in paths
        if all(r < room and tokens[r] == choices[parents[r]] for r in path[1:])
    ]  # fmt: skip
    best = max(agreeing, key=len)
    ancestors = [sum(1 << r for r in p) for p in paths]
    count, path, after = accept(
        torch.tensor([[tokens, parents, ancestors]]), torch.tensor(tree.depths),
        torch.tensor([choices]), torch.tensor([100 - room]), 100, depth,
    )  # fmt: skip
    assert count.item() == len(best) - 1
    assert path[0].tolist()[: len(best)] in agreeing
    assert path.shape == (1, depth + 1)
    assert after[0].tolist() == [choices[row] for row in path[0]]


def test_drafts_begin_as_chains() -> None:
    tokens, parents, ancestors = DraftTree(3).chains(2).swapaxes(0, 1)
    assert parents.tolist() == [[0, 0, 1, 2]] * 2
    assert ancestors.tolist() == [[0b1, 0b11, 0b111, 0b1111]] * 2
    assert not tokens.any()


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_lie_as_kernels_read_them(
    folders: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels take pointers: a broadcast that was not written out would be read past its end."""
    seen: list[str] = []

    def checked(
        qkv: torch.Tensor, rotation: Rotation, cache: torch.Tensor, tables: torch.Tensor,
        *numbers: object, lows: torch.Tensor | None, **more: float,
    ) -> torch.Tensor:  # fmt: skip
        *rows, weight, ranks = numbers
        assert tables.is_contiguous()
        for number, tensor in enumerate((rotation.positions, rotation.rows, *rows, lows)):
            if isinstance(tensor, torch.Tensor) and tensor.stride() != (1,):
                seen.append(f"number {number}: {tensor.stride()}")
        return attend_step_parts(
            qkv, rotation, cache, tables, *rows, weight, ranks, lows=lows, **more
        )  # type: ignore[arg-type]

    target = opened(folders, WAYS["tree"])
    monkeypatch.setattr(decoder, "attend_step_parts", checked)
    slots = list(range(batch))
    for _ in range(2):
        target.extend(Batch(slots, [5] * batch, [2] * batch, [GREEDY] * batch))
    assert not seen
