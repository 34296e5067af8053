"""Kills 200 processes somewhere in fetching, capturing, sealing, storing: `FOLDER OUTPUT`.

Forks of a process of its own: in those of one that holds much, most moments lie before they begin.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from foundryc.cache.entry import admit
from foundryc.cache.flight import obtain
from foundryc.cache.stores.local import LocalStore
from tests.unit.cache_samples import KEY, sealed


def build(path: Path) -> None:
    sealed(path)


def main(folder: str, output: str) -> None:
    chance, store, out, killed = random.Random(6), LocalStore(Path(folder)), Path(output), 0
    for run in range(200):
        if run % 3 == 0:
            store.evict(KEY)
        child = os.fork()
        if child == 0:
            obtain(store, KEY, out, build, lambda line: None)
            os._exit(0)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
        for entry in store.entries():
            admit(store.folder / f"{entry.key}.fdy", entry.key)
        if out.exists():
            admit(out, KEY)
            out.unlink()
    print(f"{killed} killed")


main(*sys.argv[1:])
