"""A bundle's frames at the pace of the air and flat out, in a process without torch.

    python -m benchmarks.receiver.replay BUNDLE FRAMES FLAT_FRAMES POOL SNR

Prints one JSON object. Every launch copies the samples in, and LLRs (float32) and bits out; of a
coded receiver the decoded payload and which blocks have errors.
"""

from __future__ import annotations

from foundryrt.cuda import early

early.begin()  # as `foundryrt run` does, before numpy

import json  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Iterable, Mapping  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from foundryrt.session import Session  # noqa: E402
from otfs_pipeline.frames import source, stream  # noqa: E402
from otfs_pipeline.frames.pace import Paced  # noqa: E402
from otfs_pipeline.link import frame  # noqa: E402
from otfs_pipeline.metrics import latency_percentiles  # noqa: E402
from otfs_pipeline.settings import Settings  # noqa: E402


class _Errors:
    """Bit errors in output `name`, of the first time that each frame of the pool comes by."""

    def __init__(self, pool: int, name: str) -> None:
        self.left, self.name = pool, name
        self.bits = self.wrong = 0

    def take(self, item: source.Frame, outputs: Mapping[str, np.ndarray]) -> None:
        if self.left:
            self.left -= 1
            self.bits += item.bits.size
            self.wrong += int(np.count_nonzero(outputs[self.name].reshape(-1) != item.bits))


def measure(path: str, frames: int, flat_frames: int, pool: int, snr: float) -> dict[str, Any]:
    """Latencies at frame pace; payload rate and BER flat out."""
    with Session.open(path) as session:
        settings = Settings(**session.settings)  # type: ignore[arg-type]
        made = source.pool(lambda index: source.simulate(settings, snr, 0, index), pool)
        results = ("llr", "bits", "variance")
        if settings.transport_block:
            results = ("block_errors", "payload", "variance")
        pipeline = session.graph("receive").pipeline(("samples",), results)
        try:
            placed = [source.placed(item, pipeline.staging("samples")) for item in made]

            def run(items: Iterable[source.Frame], errors: _Errors) -> stream.Tally:
                stop = threading.Event()
                return stream.receive(items, pipeline, settings.frame_shape, errors.take, stop)

            errors = _Errors(pool, results[1])
            run(source.repeat(placed, 4 * pool), errors)
            flat = run(source.repeat(placed, flat_frames), _Errors(0, ""))
            deadline = settings.frame_seconds
            paced = Paced(source.repeat(placed, frames), deadline, limit=8)
            tally = run(paced, _Errors(0, ""))
        finally:
            pipeline.close()
    milliseconds = np.array(tally.milliseconds)
    missed = int(np.count_nonzero(milliseconds > deadline * 1e3))
    latency = latency_percentiles(milliseconds)
    return {
        "frames": tally.frames,
        "dropped": paced.dropped,
        "latency_ms": latency,
        "deadline_ms": deadline * 1e3,
        "p99_9_over_deadline": latency["p99_9"] / (deadline * 1e3),
        "deadline_misses": missed,
        "on_time": (tally.frames - missed) / frames,
        "flat_out_frames": flat.frames,
        "flat_out_payload_mbps": frame.payload_bits(settings) * flat.frames / flat.seconds / 1e6,
        "air_payload_mbps": frame.payload_bits(settings) / deadline / 1e6,
        "cg_iterations": settings.cg_iterations,
        "snr_db": snr,
        "ber_est": errors.wrong / errors.bits,
        "ber_frames": pool,
    }


if __name__ == "__main__":
    bundle, *numbers, snr_db = sys.argv[1:]
    result = measure(bundle, *map(int, numbers), float(snr_db))
    if "torch" in sys.modules:
        sys.exit("torch was imported")
    print(json.dumps(result))
