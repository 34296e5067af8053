"""`foundryc`: capture a workload into a bundle, and look at bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foundryc import report
from foundryc.cache import cli as cache_cli
from foundryc.cache.capture import capture_now, through_cache
from foundryc.cache.request import Request
from foundryc.difference import compare
from foundryrt import options, workload
from foundryrt.bundle.reader import Bundle
from foundryrt.bundle.writer import check_output
from foundryrt.console import (
    Json,
    Version,
    print_json,
    print_options,
    progress_bar,
    reporting,
    run_app,
)  # fmt: skip
from foundryrt.trust import resolve

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE.fdy", help="The bundle.")]
WORKLOAD_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
app.command(context_settings=WORKLOAD_OPTIONS)(cache_cli.key)
app.add_typer(cache_cli.app, name="cache")


@app.callback()
def main_help(version: Version = False) -> None:
    """Capture everything a workload's graphs depend on into one `.fdy` bundle."""


@app.command(context_settings=WORKLOAD_OPTIONS)
def capture(
    context: typer.Context,
    name: cache_cli.Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle to write.")],
    target: cache_cli.Target = "host",
    embed_weights: cache_cli.EmbedWeights = False,
    compile: cache_cli.Compile = False,
    base: cache_cli.Base = None,
    cache: Annotated[
        str | None,
        typer.Option(envvar="FOUNDRY_CACHE", help="Fetch it from this cache, or push it there."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a workload once and write its bundle.

    The workload's own options follow (see `foundryc workloads NAME`), for example --model or
    --grid. Bundles that one process opens at the same time need bases 2 TiB apart.
    """
    with reporting():
        request = Request.read(name, target, embed_weights, context.args, compile, base)
        check_output(output)
        outcome = {}
        if cache:
            outcome = through_cache(cache, request, output, capture_now)
        else:
            capture_now(request, output)
        with Bundle.open(output) as bundle:
            summary = {**report.summary(bundle), **outcome}
        if json:
            print_json(summary)
        else:
            report.print_summary(output, summary)


@app.command()
def workloads(
    name: Annotated[str | None, typer.Argument(help="List the options of this one.")] = None,
    json: Json = False,
) -> None:
    """List the installed workloads, or the capture options of one."""
    with reporting():
        if name is None:
            names = workload.names("foundryc.workloads")
            print_json(names) if json else print("\n".join(names))
            return
        rows = options.describe(workload.find("foundryc.workloads", name).Settings)
        print_options(rows, f"foundryc capture --workload {name}", json)


@app.command()
def inspect(bundle: BundlePath, json: Json = False) -> None:
    """Show what a bundle holds."""
    with reporting(), Bundle.open(bundle) as opened:
        if json:
            print_json(report.as_json(opened))
        else:
            report.print_bundle(opened)


@app.command()
def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEYFILE", help="The private key to write.")],
) -> None:
    """Make an Ed25519 key pair: KEYFILE, readable by you alone, and its public half as `.pem`."""
    with reporting():
        from foundryc.sign import create_key

        print(f"{key}: keep secret; {create_key(key)}: give to whoever is to trust you")


@app.command()
def sign(
    bundle: BundlePath,
    key: Annotated[Path, typer.Option(help="Private Ed25519 key, PEM (see `foundryc keygen`).")],
    json: Json = False,
) -> None:
    """Check a bundle and sign it; a second key adds its signature, the same key renews its own."""
    with reporting():
        from foundryc.sign import sign as sign_bundle

        signer = sign_bundle(bundle, key)
        if json:
            print_json({"bundle": str(bundle), "signer": signer})
        else:
            print(f"{bundle}: signed by {signer}")


@app.command()
def verify(
    bundle: BundlePath,
    trust: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public key (PEM), or a folder of them, that must have signed; repeatable."
            " By default those of FOUNDRY_TRUST."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check every byte of a bundle: digests, references, graph tables; with keys, its signature."""
    with reporting(), Bundle.open(bundle, checked := resolve(trust or None)) as opened:
        total = sum(section.stored for section in opened.sections)
        # In millions: what is left of a large bundle is what people want to know.
        with progress_bar(-(-total // 10**6), "verifying") as update:
            seen = 0

            def report_bytes(stored: int) -> None:
                nonlocal seen
                seen += stored
                update(-(-seen // 10**6), "MB")

            opened.verify(report_bytes)
        if json:
            print_json(
                {
                    "ok": True,
                    "digest": opened.digest.hex(),
                    "bytes": total,
                    "signers": [entry.key_id for entry in opened.signatures],
                    "trusted": checked is not None,
                }
            )
        else:
            signed = ", signed by a trusted key" if checked else ""
            print(f"{bundle}: ok, {len(opened.sections)} sections{signed}, {opened.digest.hex()}")


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A.fdy")],
    b: Annotated[Path, typer.Argument(metavar="B.fdy")],
    json: Json = False,
) -> None:
    """Show what differs between two bundles; exit code 1 where something does."""
    with reporting(), Bundle.open(a) as first, Bundle.open(b) as second:
        differences = compare(first, second)
        if json:
            print_json({"equal": not differences, "differences": differences})
        elif differences:
            report.print_differences(a, b, differences)
        else:
            print("equal")
    if differences:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the command."""
    run_app(app)
