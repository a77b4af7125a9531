"""The `mplug2 convert` commands: released files, exported folders and checkpoints, one to another. Nothing in them is executed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.errors import UserError
from megatron_mplug2.wording import printable

if TYPE_CHECKING:
    from megatron_mplug2.conversion.released import Report

app = typer.Typer(no_args_is_help=True, help="Convert released files, Hugging Face folders and checkpoints, one to another.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that `convert official` or `convert export` wrote")]


@app.command()
def official(
    file: Annotated[Path, typer.Argument(metavar="IN.pth", help="A released mPLUG-2 file")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make, which AutoModel loads")],
    vocab: Annotated[Path, typer.Option("--vocab", metavar="FILE", help="bert-base-uncased's vocab.txt, which no .pth holds")],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="CONFIG", help="Config of the sizes, such as configs/model/large.yaml")
    ] = None,
    bert_config: Annotated[Path | None, typer.Option("--bert-config", metavar="JSON", help="The released BERT config instead")] = None,
) -> None:
    """Make a Hugging Face folder of a released .pth; tells what of it is used, ignored and missing.

    Without a config the sizes are read off the weights.
    """
    from megatron_mplug2.conversion.official import official_to_folder

    if model is not None and bert_config is not None:
        raise UserError("--model and --bert-config both give the sizes: give one of them")
    _tell(official_to_folder(file, out, vocab, model=model, bert_config=bert_config), out)


@app.command("to-official")
def to_official(folder: Folder, out: Annotated[Path, typer.Argument(metavar="OUT.pth", help="File to make")]) -> None:
    """Make a .pth of the released layout from a Hugging Face folder."""
    from megatron_mplug2.conversion.official import folder_to_official

    _tell(folder_to_official(folder, out), out)


@app.command()
def export(
    place: Annotated[Path, typer.Argument(metavar="RUN_OR_CHECKPOINT", help="A run's folder, or a checkpoint's")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make, which AutoModel loads")],
) -> None:
    """Make a Hugging Face folder of a run's best checkpoint, if it keeps that, else its newest; or of the one that is named."""
    from megatron_mplug2.conversion.checkpoints import checkpoint_to_folder

    _tell(checkpoint_to_folder(place, out), out)


@app.command("import")
def import_(
    folder: Folder, out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make, for initialise_from.checkpoint")]
) -> None:
    """Make a checkpoint, for a run to begin with, from a Hugging Face folder."""
    from megatron_mplug2.conversion.checkpoints import folder_to_checkpoint

    _tell(folder_to_checkpoint(folder, out), out)


@app.command()
def initial(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make, for initialise_from.checkpoint")],
    model: Annotated[Path, typer.Option("--model", metavar="CONFIG", help="Config of the sizes, such as configs/model/large.yaml")],
    clip: Annotated[
        Path | None, typer.Option("--clip", help="OpenAI's CLIP (archive or state dict), or transformers' file or folder")
    ] = None,
    bert: Annotated[Path | None, typer.Option("--bert", help="transformers' BERT, file or folder")] = None,
    zero_positions: Annotated[
        bool, typer.Option("--zero-positions", help="Visual positions begin at zero, as the released code's")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the weights that neither of them has")] = 0,
) -> None:
    """Make a checkpoint, for a run to begin with, from CLIP and BERT; what they lack gets its usual initial values."""
    from megatron_mplug2.conversion.pretrained import Positions, pretrained_to_checkpoint

    positions = Positions.ZERO if zero_positions else Positions.RESIZED
    _tell(pretrained_to_checkpoint(out, model, clip=clip, bert=bert, positions=positions, seed=seed), out)


@app.command()
def inspect(place: Annotated[Path, typer.Argument(metavar="PLACE", help="A released .pth, or a Hugging Face folder")]) -> None:
    """Show the model that a file or folder holds; of a .pth, what would be used, ignored and missing."""
    from megatron_mplug2.conversion.contents import describe

    for line in describe(place):
        typer.echo(printable(line))


def _tell(report: "Report", out: Path) -> None:
    from megatron_mplug2.conversion.report import table

    for line in table(report):
        typer.echo(line)
    typer.echo(f"written: {out}")
