"""A decoder from transformers, prefill and decode, run without its Python code.

    python examples/decoder.py capture decoder.fdy [--target cuda]
    python examples/decoder.py run decoder.fdy

The model is a small Qwen3 with random weights; with `AutoModelForCausalLM.from_pretrained` in its
place the rest stays as it is. `capture` needs foundry-graphs[capture] and transformers; `run` needs
torch on the host target, and nothing more on cuda.
"""

from __future__ import annotations

import argparse

import numpy as np

PROMPT, LENGTH = 16, 64  # tokens of a prefill, and of the KV cache
NEW = 24


def capture(path: str, target: str) -> None:
    """Write the bundle, with a prompt and what transformers itself makes of it."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from foundryc import Recorder

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, eos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    prompt = torch.randint(config.vocab_size, (1, PROMPT))
    expected = model.generate(prompt, max_new_tokens=NEW, do_sample=False)[0, PROMPT:]

    with Recorder(target=target, workload="example-decoder", settings={}) as recorder:
        # Its weights lie in the bundle's memory from here on, on cuda on the device.
        recorder.module(model)
        device = model.device
        shape = (1, config.num_key_value_heads, LENGTH, config.head_dim)
        keys, values = (
            [
                recorder.register(f"{kind}.{layer}", torch.zeros(shape), role="state")
                for layer in range(config.num_hidden_layers)
            ]
            for kind in ("keys", "values")
        )

        class Cache:
            """What attention asks of a KV cache; `positions` are those of the new tokens."""

            def __init__(self, positions: torch.Tensor) -> None:
                self.positions = positions

            def update(self, key, value, layer, *_, **__):
                keys[layer].index_copy_(2, self.positions, key)
                values[layer].index_copy_(2, self.positions, value)
                return keys[layer], values[layer]

        def forward(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            """The token that follows."""
            seen = torch.arange(LENGTH, device=device) <= positions[:, None]
            mask = torch.where(seen, 0.0, float("-inf"))[None, None]
            call = (tokens[None], mask, positions[None], Cache(positions))
            return model(*call).logits[0, -1].argmax()

        graphs = []
        for name, count in (("prefill", PROMPT), ("decode", 1)):
            zeros = torch.zeros(count, dtype=torch.int64)
            tokens = recorder.register(f"{name}.tokens", zeros, role="input")
            positions = recorder.register(f"{name}.positions", torch.arange(count), role="input")
            graphs.append((name, tokens, positions))
        with torch.no_grad():
            with recorder.warm_up():
                for _, tokens, positions in graphs:
                    forward(tokens, positions)
            for name, tokens, positions in graphs:
                with recorder.graph(name) as graph:
                    graph.output("token", forward(tokens, positions))
        recorder.attach("prompt", prompt.numpy().tobytes())
        recorder.attach("expected", expected.numpy().tobytes())
        recorder.save(path)


def run(path: str) -> None:
    """Prefill, then decode, and compare with what transformers said."""
    from foundryrt import Session

    with Session.open(path) as session:
        prompt, expected = (
            np.frombuffer(session.file(name), np.int64) for name in ("prompt", "expected")
        )
        session.write("prefill.tokens", prompt)
        graph = session.graph("prefill")
        graph.launch()
        tokens = [int(graph.read("token"))]
        graph = session.graph("decode")
        while len(tokens) < NEW:
            session.write("decode.tokens", np.array(tokens[-1:]))
            session.write("decode.positions", np.array([PROMPT + len(tokens) - 1]))
            graph.launch()
            tokens.append(int(graph.read("token")))
    assert tokens == expected.tolist(), (tokens, expected)
    print(f"{NEW} tokens, all as transformers decodes them: {tokens}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["capture", "run"])
    parser.add_argument("bundle")
    parser.add_argument("--target", choices=["host", "cuda"], default="host")
    options = parser.parse_args()
    if options.command == "capture":
        capture(options.bundle, options.target)
    else:
        run(options.bundle)
