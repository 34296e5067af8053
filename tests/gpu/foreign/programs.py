"""Programs as others write them: none knows of a recorder, each makes its memory where it likes.

A program is a function of the device; it returns a `Program`. All of them can be run once on the
CPU, without graphs: `python -m tests.gpu.foreign.programs`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Program:
    """What a program does with its inputs, tensors that are replaced before each run."""

    inputs: dict[str, Tensor]
    body: Callable[..., Tensor]
    goes_on: bool = False
    """Whether a run begins where the one before it ended: caches, optimizers."""
    fresh: Callable[[Tensor], Tensor] = field(default=lambda old: torch.randn_like(old))
    """Other contents of an input."""


PROGRAMS: dict[str, Callable[[str], Program]] = {}


def program(make: Callable[[str], Program]) -> Callable[[str], Program]:
    PROGRAMS[make.__name__] = make
    return make


def on_input(module: Callable[[Tensor], Tensor], *shape: int, device: str, dtype=None) -> Program:
    return Program({"x": torch.randn(*shape, device=device, dtype=dtype)}, module)


# Layers and vision


@program
def linear_made_before(device):
    return on_input(nn.Sequential(nn.Linear(512, 1024), nn.GELU(), nn.Linear(1024, 8)).to(device),
                    32, 512, device=device)  # fmt: skip


@program
def convolutions(device):
    return on_input(
        nn.Sequential(
            nn.Conv2d(3, 32, 7, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3)
        ).to(device).eval(),
        4, 3, 96, 96, device=device,
    )  # fmt: skip


@program
def resnet18(device):
    from torchvision.models import resnet18

    return on_input(resnet18(weights=None).to(device).eval(), 2, 3, 224, 224, device=device)


@program
def vit_of_timm(device):
    import timm

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False).to(device).eval()
    return on_input(model, 2, 3, 224, 224, device=device)


@program
def convnext_of_timm_half(device):
    import timm

    model = timm.create_model("convnext_pico", pretrained=False).to(device).eval().half()
    return on_input(model, 2, 3, 224, 224, device=device, dtype=torch.half)


@program
def lstm(device):
    model = nn.LSTM(64, 128, 2, batch_first=True).to(device).eval()
    return on_input(lambda x: model(x)[0], 4, 16, 64, device=device)


@program
def gru_bidirectional(device):
    model = nn.GRU(32, 64, bidirectional=True).to(device).eval()
    return on_input(lambda x: model(x)[0], 12, 3, 32, device=device)


@program
def torch_encoder(device):
    layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).to(device).eval()
    return on_input(model, 2, 33, 128, device=device)


# Transforms and linear algebra


@program
def fft_512(device):
    return on_input(lambda x: torch.view_as_real(torch.fft.fft(x)), 8, 512, device=device)


@program
def fft_odd(device):
    return on_input(lambda x: torch.view_as_real(torch.fft.rfft(x)), 8, 945, device=device)


@program
def fft_prime(device):
    return on_input(lambda x: torch.view_as_real(torch.fft.fft(x)), 4, 10007, device=device)


@program
def fft_2d(device):
    return on_input(lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5), 2, 96, 80, device=device)


@program
def lu_of_cusolver(device):
    return on_input(lambda x: torch.linalg.lu_factor_ex(x).LU, 1024, 1024, device=device)


@program
def cholesky_and_solve(device):
    def solve(x):
        square = x @ x.mT + 512 * torch.eye(512, device=device)
        return torch.cholesky_solve(x[:, :8], torch.linalg.cholesky_ex(square).L)

    return on_input(solve, 512, 512, device=device)


@program
def sparse_times_dense(device):
    dense = torch.relu(torch.randn(512, 512) - 1.5)
    sparse = dense.to_sparse_csr().to(device)
    return on_input(lambda x: sparse @ x, 512, 64, device=device)


@program
def sort_and_scan(device):
    return on_input(
        lambda x: x.sort().values.cumsum(-1) + x.topk(1).values, 16, 4096, device=device
    )


# Products


@program
def grouped_products(device):
    weight = torch.randn(4, 256, 512, device=device, dtype=torch.bfloat16)
    ends = torch.tensor([32, 64, 96, 128], device=device, dtype=torch.int32)
    return on_input(
        lambda x: torch._grouped_mm(x, weight, offs=ends),
        128,
        256,
        device=device,
        dtype=torch.bfloat16,
    )


@program
def products_in_fp8(device):
    scale = torch.ones((), device=device)
    weight = torch.randn(256, 512, device=device).to(torch.float8_e4m3fn)

    def product(x):
        return torch._scaled_mm(
            x.to(torch.float8_e4m3fn), weight.t(), scale, scale, out_dtype=torch.bfloat16
        )

    return on_input(product, 64, 512, device=device)


@program
def attention_of_sdpa(device):
    heads = nn.Linear(256, 768).to(device).to(torch.bfloat16)

    def attend(x):
        q, k, v = heads(x).view(2, 128, 3, 4, 64).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return on_input(attend, 2, 128, 256, device=device, dtype=torch.bfloat16)


@program
def flex_attention(device):
    from torch.nn.attention.flex_attention import flex_attention as flex

    compiled = torch.compile(flex)
    return on_input(
        lambda x: compiled(x, x, x, score_mod=lambda s, b, h, q, k: s - (q - k).abs() * 0.1),
        1, 4, 128, 64, device=device, dtype=torch.bfloat16,
    )  # fmt: skip


@program
def compiled_mlp(device):
    model = torch.compile(
        nn.Sequential(nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 256)).to(device)
    )
    return on_input(model, 16, 256, device=device)


# Random numbers


def _of_one(draw: Callable[[Tensor], Tensor], device: str) -> Program:
    return on_input(draw, 64, 256, device=device)


@program
def dropout(device):
    return _of_one(lambda x: F.dropout(F.dropout(x, 0.3) * 2, 0.1), device)


@program
def uniform_and_normal(device):
    return _of_one(lambda x: torch.rand_like(x) + x + torch.randn(64, 1, device=device), device)


@program
def multinomial_samples(device):
    return _of_one(lambda x: torch.multinomial(x.softmax(-1), 5, replacement=True), device)


@program
def bernoulli_mask(device):
    return _of_one(lambda x: x * torch.bernoulli(torch.sigmoid(x)), device)


# Training


@program
def training_step(device):
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, capturable=device == "cuda")
    target = torch.arange(32, device=device) % 10

    def step(x):
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach().view(1)

    return replace(on_input(step, 32, 64, device=device), goes_on=True)


# Language models of transformers


def _decoder(
    device: str, kind: str, attention: str = "sdpa", dtype=torch.bfloat16, **more
) -> Program:
    import transformers

    names = {"Gemma3": "Gemma3TextConfig"}
    config = getattr(transformers, names.get(kind, f"{kind}Config"))(
        vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=128,
        pad_token_id=0, **more,
    )  # fmt: skip
    config._attn_implementation = attention
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(device, torch.bfloat16).eval()
    cache = transformers.StaticCache(config=config, max_cache_len=64)
    position = torch.tensor([[7]], device=device)

    @torch.no_grad()
    def decode(tokens):
        return model(tokens, past_key_values=cache, position_ids=position, use_cache=True).logits

    return Program(
        {"tokens": torch.randint(1, 256, (1, 1), device=device)},
        decode,
        goes_on=True,
        fresh=lambda old: torch.randint_like(old, 1, 256),
    )


@program
def llama_eager(device):
    return _decoder(device, "Llama", "eager")


@program
def qwen3_sdpa(device):
    return _decoder(device, "Qwen3")


@program
def gemma3_sdpa(device):
    return _decoder(device, "Gemma3", sliding_window=16)


@program
def mixtral(device):
    return _decoder(device, "Mixtral", num_local_experts=4)


@program
def qwen3_compiled(device):
    made = _decoder(device, "Qwen3")
    return replace(made, body=torch.compile(made.body))


@program
def bert(device):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=200, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=256)  # fmt: skip
    model = BertModel(config).to(device).eval()
    return Program(
        {"tokens": torch.randint(1, 200, (2, 24), device=device)},
        torch.no_grad()(lambda tokens: model(tokens).last_hidden_state),
        fresh=lambda old: torch.randint_like(old, 1, 200),
    )


@program
def whisper_encoder(device):
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        d_model=128, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=256, decoder_ffn_dim=256, vocab_size=200,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        max_source_positions=150,
    )  # fmt: skip
    encoder = WhisperModel(config).to(device).eval().encoder
    return on_input(
        torch.no_grad()(lambda x: encoder(x).last_hidden_state), 1, 80, 300, device=device
    )


# Other compilers, and several streams


@program
def triton_kernel(device):
    import triton
    import triton.language as tl

    global add_twice

    @triton.jit
    def add_twice(x, y, out, n, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        tl.store(out + at, tl.load(x + at, inside) + 2 * tl.load(y + at, inside), inside)

    other = torch.randn(5000, device=device)

    def add(x):
        out = torch.empty_like(x)
        add_twice[(5,)](x, other, out, 5000, BLOCK=1024)
        return out

    return on_input(add, 5000, device=device)


@program
def cupy_kernel(device):
    import cupy

    kernel = cupy.ElementwiseKernel("float32 a, float32 b", "float32 c", "c = a * b + 1", "fused")
    weight = cupy.arange(4096, dtype=cupy.float32)

    def multiply(x):
        out = torch.empty_like(x)
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            kernel(cupy.asarray(x), weight, cupy.asarray(out))
        return out

    return on_input(multiply, 4096, device=device)


@program
def numba_kernel(device):
    import numba.cuda as nb

    @nb.jit
    def scale(x, table, out):
        i = nb.grid(1)
        if i < x.size:
            out[i] = x[i] * table[i % 16]

    table = nb.to_device(torch.arange(16, dtype=torch.float32).numpy())

    def run(x):
        out = torch.empty_like(x)
        stream = nb.external_stream(torch.cuda.current_stream().cuda_stream)
        scale[16, 256, stream](nb.as_cuda_array(x), table, nb.as_cuda_array(out))
        return out

    return on_input(run, 4096, device=device)


@program
def several_streams(device):
    side = torch.cuda.Stream() if device == "cuda" else None
    weight = torch.randn(256, 256, device=device)

    def fork(x):
        if side is None:
            return x @ weight + x.sin()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            other = x @ weight
        mine = x.sin()
        torch.cuda.current_stream().wait_stream(side)
        return other + mine

    return on_input(fork, 64, 256, device=device)


NEED_A_GPU = {"triton_kernel", "cupy_kernel", "numba_kernel", "products_in_fp8"}


def main() -> None:
    for name, make in PROGRAMS.items():
        if name in NEED_A_GPU:
            continue
        try:
            made = make("cpu")
            print(name, tuple(made.body(*made.inputs.values()).shape), flush=True)
        except Exception as error:
            print(name, "failed:", repr(error)[:300], flush=True)


if __name__ == "__main__":
    main()
