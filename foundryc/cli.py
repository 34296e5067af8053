"""`foundryc`: capture a workload into a bundle, and look at bundles."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from foundryc import elsewhere, report, workload
from foundryc.attach import attach
from foundryc.cache import cli as cache_cli
from foundryc.cache.capture import capture_now, through_cache
from foundryc.cache.request import Request
from foundryc.compare.bundles import differing_words
from foundryc.difference import compare
from foundryc.naming import file_name
from foundryrt import options
from foundryrt import workload as installed
from foundryrt.atomic import AtomicFile, check_output
from foundryrt.bundle.reader import Bundle
from foundryrt.cli import Devices, RankCount
from foundryrt.console import (
    Json,
    Version,
    note,
    print_json,
    print_options,
    printable,
    progress_bar,
    reporting,
    run_app,
    write,
)
from foundryrt.errors import UsageError
from foundryrt.host.admitted import check_names
from foundryrt.ranks import command as ranks
from foundryrt.regular import refuse_input
from foundryrt.session import Session
from foundryrt.trust import resolve

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE.fdy", help="The bundle.")]
WORKLOAD_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.callback()
def main_help(version: Version = False) -> None:
    """Capture everything a workload's graphs depend on into one `.fdy` bundle."""


@app.command(context_settings=WORKLOAD_OPTIONS, no_args_is_help=True)
def capture(
    context: typer.Context,
    name: cache_cli.Name = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The bundle to write, over any that is there. By default a new file here, named"
            " after the script, or the model or workload and the settings that are not at their"
            " defaults.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Without -o: replace the file that is there.")
    ] = False,
    target: cache_cli.Target = None,
    embed_weights: cache_cli.EmbedWeights = False,
    compile: cache_cli.Compile = False,
    base: cache_cli.Base = None,
    relocate: cache_cli.Relocate = None,
    fit: cache_cli.Fit = False,
    arch: cache_cli.Arch = None,
    cache: Annotated[
        str | None,
        typer.Option(envvar="FOUNDRY_CACHE", help="Fetch it from this cache, or push it there."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a workload or a script once and write its bundle.

    A workload's own options go anywhere between these (see `foundryc workloads NAME`):
    `foundryc capture --model smollm2`, `foundryc capture --grid 1024x32`.

    `foundryc capture SCRIPT.py ARGUMENTS` runs a script, or `-m package.module ARGUMENTS` a module,
    and keeps what it marks by `foundryc.record`; after `--` all words are the script's.
    """
    elsewhere.give_back()
    with reporting():
        request = Request.read(
            name, target, embed_weights, context.args, compile, base, relocate, fit, arch
        )
        output = output or _unused_name(request, target, force)
        check_output(output)
        refuse_input("the output", output, request.inputs())
        cache_cli.say_target(request)
        outcome = {}
        if cache:
            outcome = through_cache(cache, request, output, capture_now)
        else:
            capture_now(request, output)
        if elsewhere.store() is not None:
            return  # another process compares it
        with Bundle.open(output) as bundle:
            summary = {"bundle": str(output), **report.summary(bundle), **outcome}
        if json:
            print_json(summary)
        else:
            report.print_summary(output, summary)


def _unused_name(request: Request, target: str | None, force: bool) -> Path:
    marks = [target] if target else []
    marks += ["embedded"] if request.embed_weights else []
    marks += ["compiled"] if request.compile else []
    marks += list(request.architectures)
    marks += [] if request.base is None else [f"base{request.base:x}"]
    path = Path(file_name(request.workload, request.settings, *marks))
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; --force replaces it, -o names another file")
    return path


app.command(context_settings=WORKLOAD_OPTIONS, no_args_is_help=True)(cache_cli.key)
app.add_typer(cache_cli.app, name="cache")


@app.command()
def workloads(
    name: Annotated[
        str | None, typer.Argument(help="List the options of this one, installed or a file.")
    ] = None,
    json: Json = False,
) -> None:
    """List the installed workloads, or the capture options of one."""
    with reporting():
        if name is None:
            names = installed.names(workload.GROUP)
            print_json(names) if json else write("".join(f"{known}\n" for known in names))
            return
        rows = options.describe(workload.find(name).Settings)
        print_options(rows, f"foundryc capture --workload {name}", json)


@app.command()
def inspect(bundle: BundlePath, json: Json = False) -> None:
    """Show what a bundle holds."""
    with reporting(), Bundle.open(bundle) as opened:
        if json:
            print_json(report.as_json(opened))
        else:
            report.print_bundle(opened)


@app.command("report")
def write_report(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE.fdy...", help="One bundle or several.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page. By default beside the first bundle, as .html.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write an HTML page of what bundles hold: graphs with their topology, memory, weights."""
    from foundryc.page.bundle import bundle_page

    with reporting(), contextlib.ExitStack() as closing:
        opened = [closing.enter_context(Bundle.open(path)) for path in bundles]
        first = bundles[0]  # whose name may have other dots: qwen3-0.6b
        path = output or first.with_name(first.name.removesuffix(".fdy") + ".html")
        refuse_input("the page", path, bundles)
        check_output(path, "model.html")
        with AtomicFile(path) as out:
            out.file.write(bundle_page(opened).encode())
            out.commit()
        write(f"{printable(path)}\n")


@app.command(context_settings=WORKLOAD_OPTIONS, no_args_is_help=True)
def calibrate(
    context: typer.Context,
    bundle: BundlePath,
    weights: Annotated[
        Path | None, typer.Option(help="Folder with the weight files, if they moved.")
    ] = None,
    tp: RankCount = None,
    devices: Devices = None,
    json: Json = False,
) -> None:
    """Fit what BUNDLE's workload decides by to its models, and put the fit into BUNDLE.

    The workload's own options go behind BUNDLE: `foundryc calibrate parse.fdy --questions 200`. The
    bundle is another one then: signatures are void, and caches and copies have the one without.
    """
    with reporting():
        with Bundle.open(bundle) as opened:
            manifest = opened.manifest
            name = manifest.workload.name
            driver = installed.find_run(name)
        if not isinstance(driver, installed.CalibratedWorkload):
            raise UsageError(f"workload {name!r} has nothing to calibrate")
        chosen = options.parse(driver.Calibrating, context.args)
        with (
            ranks.others(manifest, str(bundle), tp, devices) as others,
            Session.open(bundle, weights=weights, followers=others) as session,
        ):
            files, found = driver.calibrate(session, chosen, json)
        if attach(bundle, files):
            note(f"{bundle}: its signatures no longer hold: sign it again")
        if json:
            print_json({"bundle": str(bundle), "files": sorted(files), **found})
        else:
            write(f"{printable(bundle)}: has {', '.join(sorted(files))} now\n")


@app.command()
def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEYFILE", help="The private key to write.")],
) -> None:
    """Make an Ed25519 key pair: KEYFILE, readable by you alone, and its public half as `.pem`."""
    with reporting():
        from foundryc.sign import create_key

        public = printable(create_key(key))
        write(f"{printable(key)}: keep secret; {public}: give to those who are to trust you\n")


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
            write(f"{printable(bundle)}: signed by {signer}\n")


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
        called = _check_calls(opened)
        if json:
            print_json(
                {
                    "ok": True,
                    "digest": opened.digest.hex(),
                    "bytes": total,
                    "signers": [entry.key_id for entry in opened.signatures],
                    "trusted": checked is not None,
                    "calls_checked": called,
                }
            )
        else:
            signed = ", signed by a trusted key" if checked else ""
            write(
                f"{printable(bundle)}: ok, {len(opened.sections)} sections{signed},"
                f" {opened.digest.hex()}\n"
            )


def _check_calls(bundle: Bundle) -> bool:
    """Check what the graphs of a host bundle call, and with what; arguments only where torch is."""
    if bundle.manifest.target != "host":
        return True
    check_names(bundle.manifest)
    if importlib.util.find_spec("torch") is None:
        note("the arguments of the graphs' calls were not checked: torch is not installed")
        return False
    from foundryrt.host.replay import check_graphs

    check_graphs(bundle)
    return True


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A.fdy")],
    b: Annotated[Path, typer.Argument(metavar="B.fdy")],
    json: Json = False,
) -> None:
    """Show what differs between two bundles; exit code 1 where something does."""
    with reporting(), Bundle.open(a) as first, Bundle.open(b) as second:
        differences = compare(first, second) + differing_words(first, second)
        if json:
            print_json({"equal": not differences, "differences": differences})
        elif differences:
            report.print_differences(a, b, differences)
        else:
            write("equal\n")
    if differences:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the command."""
    run_app(app)
