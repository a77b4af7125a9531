"""The `mplug2 checkpoint` commands: they look, and change nothing. None of them starts ranks or executes what a checkpoint holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.errors import UserError
from megatron_mplug2.wording import counted, printable

if TYPE_CHECKING:
    from megatron_mplug2.checkpoint.inspection import Contents

app = typer.Typer(no_args_is_help=True, help="List, verify and inspect checkpoints.")

MIB = 2**20


@app.command("list")
def show(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder")]) -> None:
    """List a run's checkpoints, the one that it goes on from first, and what is damaged or unfinished beside them.

    COMMITs are read, not the files that they vouch for: `verify` does that.
    """
    from megatron_mplug2.checkpoint import inspection, newest

    listing = newest.listing(inspection.checkpoints_folder(run))
    for candidate in listing.complete:
        assert candidate.content is not None
        size = sum(file.size for file in candidate.content.files.values())
        typer.echo(f"{candidate.path}  step {candidate.step}  {size / MIB:.1f} MiB in {len(candidate.content.files)} files")
    for candidate in (*listing.damaged, *listing.unfinished):
        typer.echo(f"{candidate.path}  step {candidate.step}  {candidate.fault}")


@app.command()
def verify(place: Annotated[Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A run's folder, or a checkpoint's")]) -> None:
    """Check every byte against the checksums of its COMMIT; one line for each fault."""
    from megatron_mplug2.checkpoint import inspection

    checkpoints, faults = inspection.verify(place)
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        told = f"{place} has {counted(len(faults), 'fault')} (listed above)"
        raise UserError(f"{told}: a run goes on from the newest checkpoint without one")
    typer.echo(f"{place}: {counted(len(checkpoints), 'checkpoint')}, all bytes as written")


@app.command()
def inspect(
    place: Annotated[Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A checkpoint's folder, or a run's: its newest one")],
    weights: Annotated[bool, typer.Option("--weights", help="List every weight with its size and type")] = False,
) -> None:
    """Show what a checkpoint holds: step, layout, position in the data, parameters by module, optimizer state, config."""
    from megatron_mplug2.checkpoint import inspection

    contents = inspection.inspect(inspection.checkpoint_of(place))
    for line in _weights(contents) if weights else _summary(contents):
        typer.echo(line)


def _summary(contents: "Contents") -> list[str]:
    parameters = contents.parameters_by_module()
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in contents.weights().values()})
    lines = [
        f"checkpoint: {contents.checkpoint}",
        f"step: {contents.state.step}",
        f"layout: {contents.layout()} (any other reads it too)",
        f"size: {contents.size / MIB:.1f} MiB in {len(contents.commit.files)} files",
        f"parameters: {sum(parameters.values()):,} ({', '.join(types)})",
        *(f"  {module}: {count:,}" for module, count in parameters.items()),
        f"optimizer: {', '.join(contents.optimizer_kinds()) or 'none'}",
        "data:",
        *(f"  {key}: {value}" for key, value in contents.state.data.items()),
        "config:",
        *(f"  {line}" for line in contents.state.config.splitlines()),
    ]
    return [printable(line) for line in lines]


def _weights(contents: "Contents") -> list[str]:
    return [
        printable(f"{name}  {'x'.join(map(str, tensor.size)) or 'scalar'}  {str(tensor.dtype).removeprefix('torch.')}")
        for name, tensor in contents.weights().items()
    ]
