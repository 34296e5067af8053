"""`foundryrt`: run a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundryrt import options, workload
from foundryrt.bundle.reader import Bundle
from foundryrt.console import Json, Version, print_json, print_options, reporting, run_app
from foundryrt.errors import UsageError
from foundryrt.remote.bundle import open_bundle
from foundryrt.session import Session
from foundryrt.trust import resolve

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
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


@app.callback()
def main_help(version: Version = False) -> None:
    """Materialize a bundle and drive its workload."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    bundle: BundlePath,
    weights: WeightsFolder = None,
    trust: TrustPaths = None,
    json: Json = False,
) -> None:
    """Run the workload that BUNDLE was captured from.

    Its own options follow (see `foundryrt options BUNDLE.fdy`), for example --prompt or --frames.
    """
    with reporting():
        with open_bundle(bundle, resolve(trust or None)) as opened:
            driver = workload.find("foundryrt.workloads", opened.manifest.workload.name)
        chosen = options.parse(driver.Options, context.args)
        with Session.open(bundle, weights=weights, trust=trust or None) as session:
            result = driver.run(session, chosen, json)
        if json:
            print_json(result)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    bundle: BundlePath,
    weights: WeightsFolder = None,
    trust: TrustPaths = None,
) -> None:
    """Serve the workload of BUNDLE over HTTP until SIGTERM, where it has a server.

    Its own options follow (see `foundryrt options BUNDLE.fdy --serve`), for example --port.
    """
    with reporting():
        with open_bundle(bundle, resolve(trust or None)) as opened:
            driver = _server(opened)
        chosen = options.parse(driver.Serving, context.args)
        with Session.open(bundle, weights=weights, trust=trust or None) as session:
            driver.serve(session, chosen)


@app.command("options")
def show_options(
    bundle: BundlePath,
    trust: TrustPaths = None,
    serve: Annotated[bool, typer.Option("--serve", help="Those of `serve`.")] = False,
    json: Json = False,
) -> None:
    """List the options that `run`, or `serve`, takes for BUNDLE's workload."""
    with reporting():
        with open_bundle(bundle, resolve(trust or None)) as opened:
            name = opened.manifest.workload.name
            driver = _server(opened) if serve else workload.find("foundryrt.workloads", name)
        chosen = driver.Serving if serve else driver.Options
        rows = options.describe(chosen, opened.manifest.workload.settings)
        command = "serve" if serve else "run"
        print_options(rows, f"foundryrt {command}, workload {name}", json)


def _server(bundle: Bundle) -> Any:
    name = bundle.manifest.workload.name
    driver = workload.find("foundryrt.workloads", name)
    if not hasattr(driver, "serve"):
        raise UsageError(f"workload {name!r} has no server; use foundryrt run")
    return driver


def main() -> None:
    """Entry point of the command."""
    run_app(app)
