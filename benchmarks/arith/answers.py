"""Problems answered by a bundle of the pair on one rank or several, as JSON.

Arguments: bundle, ranks, their GPUs (empty on the host), problems, answers at a time, seed and
methods.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack

from benchmarks.arith import drive
from benchmarks.arith.methods import METHODS, row
from foundryrt.ranks.asked import gpu_numbers
from foundryrt.ranks.followers import Followers
from foundryrt.session import Session
from parse_runtime.graphs.loading import Loaded, load
from parse_runtime.sampling.processing import Processing


def main(
    path: str, ranks: int, gpus: str, count: int, concurrent: int, seed: int, methods: list[str]
) -> None:
    problems, found = drive.draw(count, seed), {}
    devices = gpu_numbers(gpus)
    with ExitStack() as stack:
        followers = None
        if ranks > 1:
            followers = stack.enter_context(Followers.start(path, ranks, devices))
        session = stack.enter_context(
            Session.open(path, device=devices[0] if devices else 0, followers=followers)
        )
        session.wait()
        loaded = load(session)
        for name in methods:
            rules = METHODS[name].rules
            # What only first answers cost is not timed.
            drive.answer(loaded, problems[:concurrent], concurrent, rules)
            run = drive.answer(loaded, problems, concurrent, rules)
            counts = row([run], problems)
            found[name] = {
                "tokens_per_second": counts["tokens_per_second"],
                "right": counts["accuracy"]["hits"],
                "answers": [
                    {
                        "text": outcome.text,
                        "verdicts": outcome.statistics.verdicts,
                        "threshold": outcome.request.rules.threshold,
                    }
                    for outcome in run.outcomes
                ],
            }
        if "target" in methods:
            for answer, own in zip(
                found["target"]["answers"], margins(loaded, problems, concurrent), strict=True
            ):
                answer["margins"] = own
    print(json.dumps(found))


def margins(
    loaded: Loaded, problems: list[drive.Problem], concurrent: int
) -> list[list[tuple[int, float]]]:
    """Of each token that the target alone writes: its first character, and by how much the
    likeliest token was likelier than the next one (natural logarithms)."""
    listed = Processing(logprobs=2)
    run = drive.answer(loaded, problems, concurrent, METHODS["target"].rules, listed)
    return [
        [(entry.offset, entry.top[0][1] - entry.top[1][1]) for entry in outcome.logprobs]
        for outcome in run.outcomes
    ]


if __name__ == "__main__":
    path, ranks, gpus, *numbers, methods = sys.argv[1:]
    count, concurrent, seed = map(int, numbers)
    main(path, int(ranks), gpus, count, concurrent, seed, methods.split(","))
