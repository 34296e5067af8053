"""Open a bundle and launch its graphs; nothing here imports torch or what a capture needs.

    from foundryrt import Session

`import foundryrt` itself imports no other module: each name below is imported when it is used.
"""

TYPE_CHECKING = False  # type checkers know it as True; importing typing would delay the driver
if TYPE_CHECKING:
    from foundryrt.errors import FoundryError, UsageError
    from foundryrt.graph import Graph
    from foundryrt.session import Session

__version__ = "0.1.0"  # of all packages; pyproject.toml reads it here
__all__ = ["FoundryError", "Graph", "Session", "UsageError", "__version__"]

_MODULES = {
    "FoundryError": "errors",
    "UsageError": "errors",
    "Graph": "graph",
    "Session": "session",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
