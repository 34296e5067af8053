"""The parameters of a decoder: names and shapes, and recipes from safetensors and GGUF names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from foundryc.weights import StoredTensor, WeightSlice, whole
from foundryrt.errors import UsageError
from parse_runtime.models.config import ModelConfig


@dataclass(frozen=True)
class Parameter:
    """One parameter: `layers.3.qkv`, its shape, and what fills it."""

    name: str
    shape: tuple[int, ...]
    slices: list[WeightSlice]
    dtype: str = ""
    """Where not the model's."""


@dataclass(frozen=True)
class Names:
    """How a family of files calls the tensors of a decoder; `{}` stands for the layer."""

    embed: str
    norm: str
    head: str
    layer: str
    q: str
    k: str
    v: str
    o: str
    gate: str
    up: str
    down: str
    router: str
    expert: tuple[str, str, str]
    """Gate, up and down of an expert; `{}` stands for the expert, of all where there is none."""
    input_norm: str
    post_norm: str
    """The norm before the MLP."""
    attention_output_norm: str
    mlp_output_norm: str
    q_norm: str
    k_norm: str
    interleaved: bool
    """Rows of q and k of a head alternate between the two halves of its rotary pairs."""


SAFETENSORS = Names(
    embed="model.embed_tokens", norm="model.norm", head="lm_head", layer="model.layers.{}.",
    q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj",
    gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj",
    router="mlp.gate", expert=(
        "mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj",
    ),
    input_norm="input_layernorm", post_norm="post_attention_layernorm",
    attention_output_norm="", mlp_output_norm="",
    q_norm="self_attn.q_norm", k_norm="self_attn.k_norm", interleaved=False,
)  # fmt: skip


def safetensors_names(architecture: str) -> Names:
    """As transformers writes them."""
    if architecture == "mixtral":
        block = "block_sparse_moe"
        gate, up, down = (f"{block}.experts.{{}}.{name}" for name in ("w1", "w3", "w2"))
        return replace(SAFETENSORS, router=f"{block}.gate", expert=(gate, up, down))
    if architecture in ("gemma2", "gemma3"):
        return replace(
            SAFETENSORS,
            attention_output_norm="post_attention_layernorm",
            post_norm="pre_feedforward_layernorm",
            mlp_output_norm="post_feedforward_layernorm",
        )
    return SAFETENSORS


def gguf_names(architecture: str) -> Names:
    """llama.cpp's converter permutes q and k of Llama and Mixtral, not those of the others."""
    return Names(
        embed="token_embd", norm="output_norm", head="output", layer="blk.{}.",
        q="attn_q", k="attn_k", v="attn_v", o="attn_output",
        gate="ffn_gate", up="ffn_up", down="ffn_down",
        router="ffn_gate_inp", expert=("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"),
        input_norm="attn_norm", post_norm="ffn_norm",
        attention_output_norm="post_attention_norm", mlp_output_norm="post_ffw_norm",
        q_norm="attn_q_norm", k_norm="attn_k_norm",
        interleaved=architecture in ("llama", "mixtral"),
    )  # fmt: skip


def parameters(
    config: ModelConfig, names: Names, stored: Mapping[str, StoredTensor]
) -> list[Parameter]:
    """Every parameter of the decoder with its recipe.

    UsageError names a tensor that is missing or of another shape than the configuration says.
    """
    c, find = config, finder(stored, "the model's files")
    result = [_one("embed", find(f"{names.embed}.weight", (c.vocab, c.hidden)))]
    for layer in range(c.layers):
        prefix = names.layer.format(layer)
        result += _layer(config, names, layer, _inside(find, prefix))
    result.append(_one("norm", find(f"{names.norm}.weight", (c.hidden,))))
    if not c.tied_embeddings:
        result.append(_one("head", find(f"{names.head}.weight", (c.vocab, c.hidden))))
    return result


Find = Callable[[str, tuple[int, ...]], StoredTensor]


def finder(stored: Mapping[str, StoredTensor], files: str) -> Find:
    """What gives a tensor by name; UsageError where `files` lack it or it has another shape."""

    def find(name: str, shape: tuple[int, ...]) -> StoredTensor:
        if name not in stored:
            raise UsageError(f"{files} have no tensor {name!r}")
        if stored[name].shape != shape:
            raise UsageError(
                f"{stored[name].path}: tensor {name!r} is {list(stored[name].shape)}, "
                f"its configuration asks for {list(shape)}"
            )
        return stored[name]

    return find


def refuse_unused(
    recipes: Iterable[Parameter],
    stored: Mapping[str, StoredTensor],
    harmless: Collection[str],
    where: str,
) -> None:
    """UsageError names a stored tensor, such as a bias, that a model would be computed without."""
    used = {part.stored.name for recipe in recipes for part in recipe.slices}
    left = [name for name, tensor in stored.items() if tensor.name not in used | set(harmless)]
    if left:
        raise UsageError(
            f"{where}: tensor {left[0]!r} is not supported: the model would be computed without it"
        )


def _inside(find: Find, prefix: str) -> Find:
    """Finds tensors by their names after the prefix."""
    return lambda name, shape: find(prefix + name, shape)


def _one(name: str, stored: StoredTensor) -> Parameter:
    return Parameter(name, stored.shape, whole(stored))


def _layer(
    c: ModelConfig,
    names: Names,
    layer: int,
    find: Find,
) -> list[Parameter]:
    def parameter(kind: str, shape: tuple[int, ...], slices: list[WeightSlice]) -> Parameter:
        return Parameter(f"layers.{layer}.{kind}", shape, slices)

    def vector(kind: str, name: str, size: int) -> Parameter:
        return parameter(kind, (size,), whole(find(f"{name}.weight", (size,))))

    heads = ((names.q, c.heads), (names.k, c.kv_heads), (names.v, c.kv_heads))
    weights, biases, row = [], [], 0
    for name, count in heads:
        rows = count * c.head_dim
        interleaved = names.interleaved and name != names.v
        weight = find(f"{name}.weight", (rows, c.hidden))
        weights += _head_slices(weight, count, c.head_dim, row, interleaved)
        if c.qkv_bias:
            biases.append(WeightSlice(find(f"{name}.bias", (rows,)), 1, rows, column=row))
        row += rows
    result = [
        vector("input_norm", names.input_norm, c.hidden),
        parameter("qkv", (c.qkv_rows, c.hidden), weights),
        parameter(
            "o",
            (c.hidden, c.heads * c.head_dim),
            whole(find(f"{names.o}.weight", (c.hidden, c.heads * c.head_dim))),
        ),
        vector("post_norm", names.post_norm, c.hidden),
    ]
    if c.output_norms:
        result.append(vector("attention_output_norm", names.attention_output_norm, c.hidden))
        result.append(vector("mlp_output_norm", names.mlp_output_norm, c.hidden))
    block = _experts if c.is_mixture(layer) else mlp
    result += [parameter(*found) for found in block(c, names, find)]
    if c.qkv_bias:
        result.append(parameter("qkv_bias", (c.qkv_rows,), biases))
    if c.qk_norm:
        result.append(vector("q_norm", names.q_norm, c.head_dim))
        result.append(vector("k_norm", names.k_norm, c.head_dim))
    return result


Recipe = tuple[str, tuple[int, ...], list[WeightSlice]]


def mlp(c: ModelConfig, names: Names, find: Find) -> list[Recipe]:
    """Name, shape and recipe of `gate_up`, which has the gates first, and of `down`."""
    gate = find(f"{names.gate}.weight", (c.intermediate, c.hidden))
    up = find(f"{names.up}.weight", (c.intermediate, c.hidden))
    down = find(f"{names.down}.weight", (c.hidden, c.intermediate))
    fused = [*whole(gate), WeightSlice(up, c.intermediate, c.hidden, row=c.intermediate)]
    return [
        ("gate_up", (2 * c.intermediate, c.hidden), fused),
        ("down", down.shape, whole(down)),
    ]


def _experts(c: ModelConfig, names: Names, find: Find) -> list[Recipe]:
    """The router, and every expert's matrices one behind the other."""
    size, router = c.expert_intermediate, find(f"{names.router}.weight", (c.experts, c.hidden))
    gate_up: list[WeightSlice] = []
    down: list[WeightSlice] = []

    def one(name: str, expert: int, rows: int, columns: int, row: int) -> WeightSlice:
        """An expert's matrix, a tensor of its own or a part of that of all."""
        if "{}" in name:
            stored = find(f"{name.format(expert)}.weight", (rows, columns))
            return WeightSlice(stored, rows, columns, row=row)
        stored = find(f"{name}.weight", (c.experts, rows, columns))
        return WeightSlice(stored, rows, columns, source_row=expert * rows, row=row)

    gate, up, out = names.expert
    for expert in range(c.experts):
        gate_up.append(one(gate, expert, size, c.hidden, 2 * expert * size))
        gate_up.append(one(up, expert, size, c.hidden, (2 * expert + 1) * size))
        down.append(one(out, expert, c.hidden, size, expert * c.hidden))
    return [
        ("router", router.shape, whole(router)),
        ("experts_gate_up", (c.experts, 2 * size, c.hidden), gate_up),
        ("experts_down", (c.experts, c.hidden, size), down),
    ]


def _head_slices(
    stored: StoredTensor, heads: int, head_dim: int, row: int, interleaved: bool
) -> list[WeightSlice]:
    """Rows of `heads` heads from `row` on; interleaved pairs are put back into halves."""
    if not interleaved:
        return [WeightSlice(stored, stored.rows, stored.columns, row=row)]
    half = head_dim // 2
    return [
        WeightSlice(
            stored,
            half,
            stored.columns,
            source_row=head * head_dim + part,
            source_row_step=2,
            row=row + head * head_dim + part * half,
        )
        for head in range(heads)
        for part in range(2)
    ]
