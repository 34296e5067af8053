"""A study's points, shared among processes here or on other machines by joblib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from foundryrt.errors import FoundryError, UsageError, install
from otfs_pipeline.study.journal import Journal
from otfs_pipeline.study.linklevel import Errors
from otfs_pipeline.study.point import Point

BACKENDS = ("loky", "dask", "ray")
"""Processes of this machine; a cluster of dask.distributed; one of Ray."""
# Of a backend that tells results only when all that it was given are there: rounds of so many
# points for each process.
_ROUND = 4


def run(
    points: Sequence[Point],
    journal: Journal,
    jobs: int,
    backend: str,
    cluster: str,
    finished: Callable[[int], object],
) -> None:
    """Run the points that `journal` lacks and add them to it, each when it is finished.

    `jobs` processes, 0: as many as there are processors, or workers in the cluster at address
    `cluster`. `finished` is told how many points there are. FoundryError where a package is missing
    or the cluster does not answer.
    """
    rest = {key: point for point in points if (key := point.key) not in journal.points}
    done = len(points) - len(rest)
    finished(done)
    if not rest:
        return
    with _workers(backend, cluster):
        for key, errors in results(rest, jobs or -1):
            journal.add(key, errors)
            done += 1
            finished(done)


def results(points: dict[str, Point], jobs: int) -> Iterator[tuple[str, Errors]]:
    """Keys and results in the order in which they come, by joblib's current backend."""
    from joblib import Parallel, delayed, effective_n_jobs

    calls = [delayed(_measured)(key, point) for key, point in points.items()]
    # A batch of several points would be lost as a whole.
    options = {"n_jobs": jobs, "batch_size": 1}
    try:
        each = Parallel(**options, return_as="generator_unordered")
    except ValueError:
        count = _ROUND * effective_n_jobs(jobs)
        for first in range(0, len(calls), count):
            yield from Parallel(**options)(calls[first : first + count])
    else:
        yield from each(calls)


def _measured(key: str, point: Point) -> tuple[str, Errors]:
    return key, point.run()


@contextmanager
def _workers(backend: str, cluster: str) -> Iterator[None]:
    """joblib's backend of that name, with a cluster where it has one."""
    if cluster and backend == "loky":
        raise UsageError("--cluster needs --backend dask or ray")
    try:
        import joblib
        import threadpoolctl  # noqa: F401  before the workers miss it
    except ImportError as error:
        raise FoundryError(f"a study needs joblib and threadpoolctl: {install('otfs')}") from error
    if backend == "ray":
        _start_ray(cluster)
    client = _client(cluster) if backend == "dask" else nullcontext()
    with client, joblib.parallel_config(backend=backend):
        yield


def _start_ray(cluster: str) -> None:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise FoundryError("--backend ray: pip install ray") from error
    ray.init(address=cluster or None)
    register_ray()


def _client(cluster: str) -> AbstractContextManager[Any]:
    """A client of the scheduler at that address, or of a cluster of this machine."""
    try:
        from distributed import Client
    except ImportError as error:
        raise FoundryError("--backend dask: pip install distributed") from error
    try:
        client: AbstractContextManager[Any] = Client(cluster or None)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise FoundryError(f"--cluster {cluster}: no scheduler answers ({error})") from error
    return client
