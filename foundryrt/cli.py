"""`foundryrt`: run a bundle."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from foundryrt import options
from foundryrt.arguments import bundle_first
from foundryrt.bundle.reader import Bundle
from foundryrt.console import (
    Json,
    Version,
    note,
    print_json,
    print_options,
    reporting,
    run_app,
    write,
)
from foundryrt.errors import UsageError
from foundryrt.ranks import command as ranks
from foundryrt.regular import refuse_input
from foundryrt.remote.bundle import open_bundle
from foundryrt.session import Session
from foundryrt.timeline import mark
from foundryrt.trust import resolve
from foundryrt.weights import weight_paths
from foundryrt.workload import (
    RunWorkload,
    ServingWorkload,
    find_run,
    own_file,
    preparing,
    wanted_rows,
)

T = TypeVar("T")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
BundlePath = Annotated[
    str,
    typer.Argument(metavar="BUNDLE.fdy", help="The bundle: a file, or an http(s) or s3 URL."),
]

WeightsFolder = Annotated[
    Path | None, typer.Option(help="Folder with the weight files, if they moved.")
]
TrustPaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        help="Public key (PEM), or a folder of them, that must have signed the bundle; repeatable."
        " By default those of FOUNDRY_TRUST.",
    ),
]

WorkloadName = Annotated[
    str | None,
    typer.Option(
        "--workload",
        help="A file such as ./demo.py, or package.module, to drive the bundle with. By default"
        " the installed workload that the bundle names.",
        show_default=False,
    ),
]

BaseAddress = Annotated[
    str | None,
    typer.Option(
        "--base",
        help="Where its memory is to begin (cuda): an address such as 0x640000000000. By default"
        " where it was at capture, or anywhere if these addresses are taken.",
        show_default=False,
    ),
]

RankCount = Annotated[
    int | None,
    typer.Option(
        "--tp",
        metavar="N",
        help="Run it on N GPUs together, where it was captured with --tp N.",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(metavar="GPUS", help="The GPU of each rank, such as 0,1. By default 0 to N-1."),
]


def _refuse(standby: bool) -> None:
    """`foundryrt` itself takes `--standby`, before anything is imported (start.py)."""
    if standby:
        raise typer.BadParameter("it must be given to the command foundryrt")


Standby = Annotated[
    bool,
    typer.Option(
        "--standby",
        callback=_refuse,
        help="Have the process run it that `foundryrt standby` has started, where FOUNDRY_STANDBY"
        " says if that has a --socket.",
    ),
]
StopFirst = Annotated[
    bool, typer.Option("--stop-first", help="Close the bundle before, then open: requests wait.")
]

WORKLOAD_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.callback()
def main_help(version: Version = False) -> None:
    """Materialize a bundle and drive its workload."""


@app.command(context_settings=WORKLOAD_OPTIONS, no_args_is_help=True)
def run(
    context: typer.Context,
    bundle: BundlePath,
    weights: WeightsFolder = None,
    trust: TrustPaths = None,
    base: BaseAddress = None,
    name: WorkloadName = None,
    tp: RankCount = None,
    devices: Devices = None,
    standby: Standby = False,
    json: Json = False,
) -> None:
    """Run the workload that BUNDLE was captured from, or `--model NAME` in place of BUNDLE.

    Its own options go anywhere between these (see `foundryrt options BUNDLE.fdy`), for example
    --prompt or --frames.
    """
    with reporting():
        with open_bundle(bundle, resolve(trust or None)) as opened:
            driver = find_run(opened.manifest.workload.name, name)
            chosen = _parsed(driver.Options, context.args)
            inputs = [opened.path, *weight_paths(opened.manifest, weights), *own_file(driver)]
            for field, path in options.written(chosen).items():
                refuse_input(options.flag(field), path, inputs)
            with (
                ranks.others(opened.manifest, bundle, tp, devices) as others,
                Session.open(
                    opened, weights=weights, trust=trust or None, base=_address(base),
                    grow=wanted_rows(driver, opened, chosen), followers=others,
                ) as session,
            ):  # fmt: skip
                result = driver.run(session, chosen, json)
        if json:
            print_json(result)


@app.command(context_settings=WORKLOAD_OPTIONS, no_args_is_help=True)
def serve(
    context: typer.Context,
    bundle: BundlePath,
    weights: WeightsFolder = None,
    trust: TrustPaths = None,
    base: BaseAddress = None,
    name: WorkloadName = None,
    tp: RankCount = None,
    devices: Devices = None,
    standby: Standby = False,
) -> None:
    """Serve the workload of BUNDLE over HTTP until SIGTERM, where it has a server.

    `--model NAME` in place of BUNDLE takes the model's bundle from a cache, or has it captured by
    `foundryc`; then options of the capture may be given, too (see `foundryc workloads parse`), and
    sizes that are not given are chosen for this machine.

    Its own options go anywhere between these (see `foundryrt options BUNDLE.fdy --serve`), for
    example --port.
    """
    with reporting(), open_bundle(bundle, resolve(trust or None)) as opened:
        known = opened.manifest.workload.name
        driver = _server(known, find_run(known, name))
        chosen = _parsed(driver.Serving, context.args)
        mark("workload")
        with (
            ranks.others(opened.manifest, bundle, tp, devices, serving=True) as others,
            preparing(driver, opened) as prepared,
            Session.open(
                opened, weights=weights, trust=trust or None, base=_address(base),
                grow=wanted_rows(driver, opened, chosen), followers=others,
            ) as session,
        ):  # fmt: skip
            prepared.join()
            driver.serve(session, chosen)


@app.command()
def switch(
    bundle: BundlePath,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    tp: RankCount = None,
    devices: Devices = None,
    stop_first: StopFirst = False,
    json: Json = False,
) -> None:
    """Have a server that is running serve BUNDLE in place of its bundle, with the same weights.

    BUNDLE is opened on the server's machine, while the server goes on, for any number of ranks. No
    answer is lost or refused. Where BUNDLE cannot take the other's place, nothing changes. A server
    on another machine takes FOUNDRY_ADMIN_TOKEN.
    """
    from foundryrt import switch as client

    with reporting():
        report = client.switch(bundle, url, tp, ranks.numbers(devices), stop_first)
        if json:
            print_json(report)
        else:
            write(client.described(report))


@app.command()
def standby(
    socket: Annotated[
        Path | None,
        typer.Option(
            help="Where to listen. By default FOUNDRY_STANDBY, or a file of this user's own.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[int, typer.Option(help="The GPU to make ready.")] = 0,
    host: Annotated[
        bool, typer.Option("--host", help="Import torch too; a GPU is then not needed.")
    ] = False,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE.fdy",
            help="One to expect, or a URL: opened once, without weights; kernels stay loaded.",
            show_default=False,
        ),
    ] = None,
    trust: TrustPaths = None,
) -> None:
    """Start everything but a bundle; `foundryrt run` or `serve --standby` runs here, at once.

    One command at a time; the process goes on until a signal ends it. Kernels of the last bundle
    stay loaded.
    """
    from foundryrt.standby import server, warm, wire

    with reporting():
        path = socket or Path(wire.path())
        with server.Standby(path, main) as own:
            ready = warm.warm_up(device, host)
            if bundle is not None:
                warm.open_once(bundle, trust or None, device)
                ready.append(f"what {bundle} needs")
            note(f"standing by at {path}: {', '.join(ready)}")
            own.serve()


@app.command("options")
def show_options(
    bundle: BundlePath,
    trust: TrustPaths = None,
    workload: WorkloadName = None,
    serve: Annotated[bool, typer.Option("--serve", help="Those of `serve`.")] = False,
    json: Json = False,
) -> None:
    """List the options that `run`, or `serve`, takes for BUNDLE's workload."""
    with reporting():
        with open_bundle(bundle, resolve(trust or None)) as opened:
            name = opened.manifest.workload.name
            driver = find_run(name, workload)
        chosen = _server(name, driver).Serving if serve else driver.Options
        rows = options.describe(chosen, opened.manifest.workload.settings)
        command = "serve" if serve else "run"
        print_options(rows, f"foundryrt {command}, workload {name}", json)


@app.command()
def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE.fdy", help="Say whether this one can run here.")
    ] = None,
    weights: WeightsFolder = None,
    trust: TrustPaths = None,
    json: Json = False,
) -> None:
    """Show what this machine offers, and whether a bundle can run on it.

    GPUs with their links and users, driver, memory, what is installed. Nothing is started: no CUDA
    context is made. Exit code 1 where BUNDLE cannot run here.
    """
    from foundryrt.doctor import fit, machine, page

    with reporting(), contextlib.ExitStack() as closing:
        opened = None
        if bundle is not None:
            opened = closing.enter_context(Bundle.open(bundle, resolve(trust or None)))
        here = machine.this_machine()
        found = fit.checks(opened, here, weights) if opened else []
        if json:
            print_json(page.as_json(here, opened, found))
        else:
            page.print_machine(here)
            if opened:
                page.print_checks(opened, found)
    if not page.fits(found):
        raise typer.Exit(1)


def _parsed(kind: type[T], arguments: Sequence[str]) -> T:
    """As `options.parse`, for arguments beside a bundle."""
    if "model" in options.named(arguments) - options.names(kind):
        raise UsageError("--model: stands in place of BUNDLE.fdy; leave one of them out")
    return options.parse(kind, arguments)


def _address(text: str | None) -> int | None:
    try:
        return None if text is None else int(text, 0)
    except ValueError:
        raise UsageError(f"--base {text}: no address; give one such as 0x640000000000") from None


def _server(name: str, driver: RunWorkload) -> ServingWorkload:
    if not isinstance(driver, ServingWorkload):
        raise UsageError(f"workload {name!r} has no server; use foundryrt run")
    return driver


_command = cache(lambda: typer.main.get_command(app))  # a process that stands by runs many


def main() -> None:
    """Entry point of the command."""
    run_app(lambda: _command()(bundle_first(sys.argv[1:])))
