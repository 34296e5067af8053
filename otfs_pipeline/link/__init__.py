"""The link: waveform, channel, estimation, equalization, and the receiver in float64."""
