"""Which target a capture is for where nobody says: cuda where a GPU can be used, else host."""

from __future__ import annotations

import os

from foundryc.installed import ABSENT, torch_version
from foundryrt.nvml import NoNvml, Nvml, visible


def usable_target() -> tuple[str, str]:
    """The target, and why: nothing to say where torch is missing.

    Asks NVML, and torch's version file: neither makes a CUDA context, which must not be there
    before the harvest of kernel binaries begins, nor takes the time that importing torch does.
    """
    cuda = torch_version()["cuda"]
    if cuda == ABSENT:
        return "host", ""  # Capturing says so, and a bundle of the cache may do without.
    if cuda == "none":
        return "host", "torch here is built without CUDA"
    try:
        with Nvml() as nvml:
            gpus = nvml.gpus()
    except NoNvml as error:
        return "host", str(error)
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    usable = visible(gpus, setting)
    if usable:
        return "cuda", usable[0].name
    if not gpus:
        return "host", "no GPU here"
    if setting is not None:
        return "host", f"CUDA_VISIBLE_DEVICES={setting} leaves no GPU"
    return "host", "no GPU here may be used: see `foundryrt doctor`"
