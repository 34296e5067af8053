"""A small convolutional network, captured for several batch sizes and run without its Python code.

    python examples/vision.py capture vision.fdy [--target cuda]
    python examples/vision.py run vision.fdy

The network has random weights; any `torch.nn.Module` can take its place. `capture` needs
foundry-graphs[capture]; `run` needs torch on the host target, and nothing more on cuda.
"""

from __future__ import annotations

import argparse

import numpy as np

BATCHES = (1, 8)


def capture(path: str, target: str) -> None:
    """Write the bundle, with images and what torch itself makes of them."""
    import torch
    from torch import nn

    from foundryc import Recorder

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    ).eval()  # fmt: skip
    coarse = 3 * torch.randn(max(BATCHES), 3, 4, 4)
    images = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    with torch.no_grad():
        expected = network(images)

    with torch.no_grad(), Recorder(target, workload="example-vision", settings={}) as recorder:
        # Its weights lie in the bundle's memory from here on, on cuda on the device.
        recorder.module(network)
        inputs = {
            batch: recorder.register(f"images.{batch}", images[:batch].clone(), role="input")
            for batch in BATCHES
        }
        with recorder.warm_up():  # on cuda, libraries come up with their memory in the arena
            for batch in BATCHES:
                network(inputs[batch])
        for batch in BATCHES:
            with recorder.graph("classify", batch=batch) as graph:
                scores = network(inputs[batch])
                graph.output("scores", scores)
                graph.output("label", scores.argmax(-1))
        recorder.attach("images", images.numpy().tobytes())
        recorder.attach("expected", expected.numpy().tobytes())
        recorder.save(path)


def run(path: str) -> None:
    """Classify the images one by one and eight at a time; compare with torch."""
    from foundryrt import Session

    with Session.open(path) as session:
        images = np.frombuffer(session.file("images"), np.float32).reshape(-1, 3, 32, 32)
        expected = np.frombuffer(session.file("expected"), np.float32).reshape(len(images), -1)
        for batch in BATCHES:
            graph = session.graph("classify", batch=batch)
            for first in range(0, len(images), batch):
                session.write(f"images.{batch}", images[first : first + batch])
                graph.launch()
                scores = graph.read("scores")
                np.testing.assert_allclose(scores, expected[first : first + batch], atol=1e-3)
            print(f"batch {batch}: scores as torch's, labels {graph.read('label').tolist()}")


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
