"""All kernels of a frame: front end, receiver, decoder, and how the frame was."""

from __future__ import annotations

import numpy as np
import torch

from foundryc.cuda.kernels import Kernel, Loader
from otfs_pipeline.receiver.kernels import program
from otfs_pipeline.receiver.kernels.decoder import KernelDecoder, Program
from otfs_pipeline.receiver.kernels.front import KernelFront
from otfs_pipeline.receiver.kernels.geometry import Geometry
from otfs_pipeline.receiver.kernels.launch import Tensors
from otfs_pipeline.receiver.kernels.platforms import Platform
from otfs_pipeline.receiver.kernels.quality import KernelQuality
from otfs_pipeline.receiver.kernels.receiver import KernelReceiver
from otfs_pipeline.settings import Settings


def decoder_program(settings: Settings) -> Program | None:
    """The decoder of frames that are coded."""
    block = settings.transport_block
    return None if block is None else Program(block, settings.decoder_iterations)


def tables(settings: Settings) -> dict[str, np.ndarray]:
    """The constants of a link's receiver and decoder."""
    decoder = decoder_program(settings)
    return program.constants(settings) | (decoder.constants() if decoder else {})


class KernelFrame:
    """Samples of a frame to the outputs of `signature.signature`, on GPUs like `platform`."""

    def __init__(
        self,
        settings: Settings,
        constants: Tensors,
        platform: Platform,
        load: Loader = Kernel.load,
    ) -> None:
        """Compiles the kernels; `constants` are those of `tables`, on the device.

        UsageError where `platform` cannot have this grid; FoundryError where the device cannot load
        the kernels.
        """
        own = {name: constants[name] for name in program.constants(settings)}
        self._receive = KernelReceiver(Geometry.of(settings, platform), own, load)
        self._measure = KernelQuality(settings, platform, load)
        decoder = decoder_program(settings)
        self._decode = decoder and KernelDecoder(decoder, constants, platform, load)

    def __call__(
        self, samples: torch.Tensor, into: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """The outputs; those of `into` are written where they are."""
        results = self._receive(samples, into)
        if self._decode:
            results |= self._decode(results["llr"].view(-1), into)
        return results | self._measure(samples, results["symbols"], into)


class KernelWaveform:
    """A slot's waveform to the outputs of `front.signature`: one graph a frame.

    `tables` are the front end's (`KernelFront`), `receive` takes its frames.
    """

    def __init__(
        self,
        settings: Settings,
        tables: Tensors,
        receive: KernelFrame,
        platform: Platform,
        load: Loader = Kernel.load,
    ) -> None:
        """Compiles the kernels; FoundryError where the device cannot load them."""
        self._front = KernelFront(settings, tables, platform, load)
        self._receive = receive

    def __call__(
        self, waveform: torch.Tensor, doubtful: torch.Tensor, into: Tensors | None = None
    ) -> dict[str, torch.Tensor]:
        """The outputs; those of `into` are written where they are."""
        found = self._front(waveform, doubtful, into)
        return self._receive(found["frame"], into) | found
