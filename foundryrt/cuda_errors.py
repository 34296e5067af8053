"""What to do about a driver's error code."""

from __future__ import annotations

REMEDIES = {
    2: "free device memory, or use a bundle that needs less",
    3: "another part of the process shut the driver down; use the session before exit",
    35: "update the NVIDIA driver to one of CUDA 13.0 or later",
    100: "no GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the host target",
    101: "choose a device that nvidia-smi lists",
    200: "a kernel binary is damaged or of another architecture; capture again on this GPU",
    209: "the bundle's kernels are of another GPU architecture; capture again on this GPU",
    700: "a kernel accessed memory outside the arena; the process must be restarted",
    718: "a kernel was damaged; the process must be restarted",
    719: "a kernel failed at launch; the process must be restarted",
    999: "check dmesg and nvidia-smi; the driver may need a restart",
}


def explain(code: int, message: str) -> str:
    """The message with a remedy, where one is known for the CUresult `code`."""
    remedy = REMEDIES.get(code)
    return f"{message}; {remedy}" if remedy else message
