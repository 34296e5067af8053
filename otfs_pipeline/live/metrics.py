"""What Prometheus is told of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# Of the deadline.
_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 100)
# Key of an entry, gauge, its help, and the factor between the two.
_LAST = (
    ("snr_db", "snr_db", "Channel's gain over the noise in dB", 1),
    ("equalized_snr_db", "equalized_snr_db", "SNR of the symbols that the equalizer expects", 1),
    ("evm_percent", "evm_ratio", "RMS distance of the symbols from the nearest points", 0.01),
    ("noise_variance", "noise_variance", "Noise energy of a sample", 1),
    ("channel_gain_db", "channel_gain_db", "Channel's gain in dB", 1),
    ("taps", "taps", "Taps of the channel that were kept", 1),
    ("burst_db", "burst_db", "Largest energy of 32 samples over the median in dB", 1),
    ("peak", "peak", "Largest real or imaginary part of a sample", 1),
    ("carrier_hz", "carrier_hz", "Carrier offset that was taken out", 1),
    ("timing_us", "timing_seconds", "How much later than whole slots since the lock", 1e-6),
)


class Metrics:
    """Of one run, in a registry of its own.

    `losses` gives frames without results by reason, `deadline` is in seconds.
    """

    def __init__(self, losses: Callable[[], Mapping[str, int]], deadline: float) -> None:
        registry = self._registry = CollectorRegistry()
        self._deadline = deadline
        self._frames = Counter("otfs_frames", "Frames with finite results", registry=registry)
        self._good = Counter("otfs_frames_good", "Frames without flags", registry=registry)
        self._flags = Counter("otfs_frames_flagged", "Frames by flag", ["flag"], registry=registry)
        self._bits = Counter(
            "otfs_payload_bits", "Bits that were compared with what was sent", registry=registry
        )
        self._errors = Counter("otfs_payload_bit_errors", "Those that differed", registry=registry)
        self._blocks = Counter(
            "otfs_block_errors", "Code blocks whose CRC failed", registry=registry
        )
        self._missed = Counter(
            "otfs_deadline_misses", "Frames whose latency exceeded the deadline", registry=registry
        )
        self._seconds = Histogram(
            "otfs_latency_seconds", "From a frame's last sample to its results",
            buckets=[deadline * share for share in _BUCKETS], registry=registry,
        )  # fmt: skip
        Gauge(
            "otfs_deadline_seconds", "From a frame to the next on the air", registry=registry
        ).set(deadline)
        self._rest = _Rest(losses)
        registry.register(self._rest)

    def take(self, entry: Mapping[str, Any], bits: int) -> None:
        """Count a frame of so many payload bits."""
        self._frames.inc()
        self._good.inc(not entry["flags"])
        for flag in entry["flags"]:
            self._flags.labels(flag).inc()
        if entry["bit_errors"] is not None:
            self._bits.inc(bits)
            self._errors.inc(entry["bit_errors"])
        self._blocks.inc(entry.get("block_errors", 0))
        self._rest.last = entry

    def took(self, milliseconds: Iterable[float]) -> None:
        """Count latencies."""
        for value in milliseconds:
            self._seconds.observe(value / 1e3)
            self._missed.inc(value / 1e3 > self._deadline)

    def page(self) -> bytes:
        """The exposition, as text."""
        return generate_latest(self._registry)


class _Rest(Collector):
    """What is looked up when Prometheus asks: losses, and how the last frame was."""

    def __init__(self, losses: Callable[[], Mapping[str, int]]) -> None:
        self._losses = losses
        self.last: Mapping[str, Any] = {}

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "otfs_frames_lost", "Frames without results, by the reason", labels=["reason"]
        )
        for reason, count in self._losses().items():
            family.add_metric([reason], count)
        yield family
        for key, name, about, factor in _LAST:
            if (value := self.last.get(key)) is not None:
                yield _gauge(f"otfs_{name}", f"{about}, last frame", value, factor)


def _gauge(name: str, about: str, value: Any, factor: float) -> Metric:
    """One series, or of a list one for each antenna that has a value, numbered from 1."""
    if not isinstance(value, list):
        return GaugeMetricFamily(name, about, value * factor)
    family = GaugeMetricFamily(name, about, labels=["antenna"])
    for number, one in enumerate(value, 1):
        if one is not None:
            family.add_metric([str(number)], one * factor)
    return family
