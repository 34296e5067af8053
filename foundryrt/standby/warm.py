"""What a standby process does ahead: imports, the driver, a context, torch for host bundles."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from contextlib import suppress
from ctypes import c_void_p
from importlib import import_module

from foundryrt.errors import FoundryError, install
from foundryrt.host.import_torch import import_torch
from foundryrt.trust import KeyPath
from foundryrt.workload import RUN, PreparedWorkload, installed, names

_CUDA = ("foundryrt.cuda.backend", "foundryrt.cuda.pipeline", "numpy")


def warm_up(device: int, host: bool) -> list[str]:
    """Import what commands need and make the context of `device`, which stays; what is ready.

    With `host` torch is imported too, and a machine without a GPU will do. FoundryError where
    there is no GPU, or no torch.
    """
    ready = []
    for name in names(RUN):
        try:
            installed(RUN, name)
        except FoundryError:
            continue  # what it needs is not installed: who runs it is told
        ready.append(f"workload {name}")
    if host:
        if importlib.util.find_spec("torch") is None:
            raise FoundryError(f"--host needs torch, which is not installed: {install('host')}")
        import_torch()
        import_module("foundryrt.host.replay")
        ready.append("torch")
    try:
        _make_context(device)
    except FoundryError:
        if host:
            return ready
        raise
    return [*ready, f"a context on device {device}"]


def open_once(bundle: str, trust: Iterable[KeyPath] | None, device: int) -> None:
    """Open a bundle, a file or a URL, without its weights, make all graphs, and close it.

    Its kernels stay loaded on cuda, and what commands import by and by is there. Errors are those
    of Session.open.
    """
    from foundryrt.session import Session

    with Session.open(bundle, device=device, trust=trust, load_weights=False) as session:
        with suppress(Exception):  # what is not installed: who serves it is told
            driver = installed(RUN, session.workload)
            if isinstance(driver, PreparedWorkload):
                driver.prepare_serving(session)
        session.wait()


def _make_context(ordinal: int) -> None:
    from foundryrt.cuda.driver import driver
    from foundryrt.cuda.staging import keep
    from foundryrt.cuda.upload import FOR_FILES
    from foundryrt.native import keep_loaded

    cuda = driver()
    for module in _CUDA:
        import_module(module)
    keep_loaded()
    # For as long as this process lives: sessions come and go.
    context = cuda.ask("cuDevicePrimaryCtxRetain", cuda.ask("cuDeviceGet", ordinal), kind=c_void_p)
    cuda("cuCtxSetCurrent", context)
    with suppress(FoundryError):  # sessions make those that they need
        keep(cuda, FOR_FILES)
