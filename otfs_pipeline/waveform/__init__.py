"""The waveform on the air: pulses, preamble, frames in their slots, channel and impairments."""
