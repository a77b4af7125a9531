"""The `mplug2 bench` command: runs the scripts of `benchmarks/`, each in its own process. They lie in the checkout, not in the package."""

import os
import re
import subprocess
import sys
import tempfile
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from megatron_mplug2.errors import ExitCode, UserError

CHECKOUT = Path(__file__).parents[1]
ALL = "all"


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"A benchmark of the checkout, such as calibrate, or {ALL}")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"Result to write, with {ALL} a folder of them; by default in benchmarks/results", show_default=False
        ),
    ] = None,
) -> None:
    """Measure this machine: one benchmark, or all of them. `calibrate` writes the profile that `mplug2 plan --gpu FILE` takes."""
    names = bench_names(CHECKOUT)
    if name == ALL:
        if out is not None:
            _check_results(out)
        failed = [one for one in names if not _run(one, out)]
        if failed:
            typer.echo(f"failed: {', '.join(failed)}", err=True)
            raise typer.Exit(ExitCode.FAILED)
        return
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"name one of {', '.join(names)}, or {ALL}"
        raise UserError(f"no benchmark is called {name}: {hint}")
    if not (_run(name, None) if out is None else _run_to(name, out)):
        raise typer.Exit(ExitCode.FAILED)


def bench_names(checkout: Path) -> list[str]:
    """The scripts that write a result. Raises UserError where there is no checkout."""
    scripts = checkout / "benchmarks"
    if not scripts.is_dir():
        raise UserError(f"{scripts} is not there: benchmarks are not installed with the package, run them from a checkout")
    texts = {script.stem: script.read_text(encoding="utf-8") for script in scripts.glob("*.py")}
    return sorted(name for name, text in texts.items() if re.search(rf"write(_part)?\(\s*(on_this_gpu\()?f?['\"]{name}\b", text))


def _run_to(name: str, out: Path) -> bool:
    """The result appears when it is whole."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise UserError(f"--out {out}: {folder} is no folder: make it first")
    if out.is_dir():
        raise UserError(f"--out {out}: it is a folder: name a file in it, such as {out / f'{name}.json'}")
    with _folder_in(folder, out) as beside:
        if not _run(name, Path(beside)):
            return False
        (result,) = Path(beside).glob("*.json")  # its name may tell of the GPU too
        result.replace(out)
    typer.echo(f"wrote {out}")
    return True


def _check_results(folder: Path) -> None:
    """Before hours of work. Raises UserError where nothing can be written there."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}: name a folder for the results of {ALL}") from None
    _folder_in(folder, folder).cleanup()


def _folder_in(folder: Path, asked: Path) -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix=".bench-", dir=folder)
    except OSError as error:
        raise UserError(f"--out {asked}: cannot write into {folder}: {error.strerror}") from None


def _run(name: str, results: Path | None) -> bool:
    variables = {} if results is None else {"MPLUG2_BENCH_RESULTS": str(results.absolute())}
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=CHECKOUT, env={**os.environ, **variables}, check=False)
    return done.returncode == 0
