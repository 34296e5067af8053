"""Record torch code as graphs and write them into a bundle, which `foundryrt` starts without it.

    from foundryc import Recorder

A script marks what `foundryc capture SCRIPT.py` is to keep by `foundryc.record` and
`foundryc.keep`. `import foundryc` itself does not import torch; using `Recorder` does.
"""

from foundryc.marks import keep, record
from foundryrt import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from foundryc.recorder import Recorder

__all__ = ["Recorder", "__version__", "keep", "record"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name != "Recorder":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from foundryc.recorder import Recorder

        return Recorder


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
