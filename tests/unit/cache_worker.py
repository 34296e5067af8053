"""A process that asks a cache for a bundle: `cache_worker.py URL OUTPUT LOG [SECONDS]`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from foundryc.cache.flight import obtain
from foundryc.cache.stores import open_store
from tests.unit.cache_samples import KEY, sealed


def main(url: str, output: str, log: str, seconds: str = "0") -> None:
    def build(path: Path) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write("captured\n")
        time.sleep(float(seconds))
        sealed(path)

    print(obtain(open_store(url), KEY, Path(output), build, lambda line: None))


if __name__ == "__main__":
    main(*sys.argv[1:])
