"""The Zak-OTFS receiver: latency, stages, baselines, bit error rates."""
