"""The `mplug2 predict` command: what a trained model says about files."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.generation.settings import Decoding, Mode

if TYPE_CHECKING:
    from megatron_mplug2.config.schema import RunConfig
    from megatron_mplug2.evaluation.predict import Fault, Model, Said

_DEFAULT = Decoding()
_PLACE = typer.Argument(
    metavar="RUN|CHECKPOINT|FOLDER", help="A run (its best or newest checkpoint), a checkpoint, or a folder of `mplug2 convert`"
)
_FILES = typer.Argument(metavar="FILE...", help="Pictures and clips")
_QUESTION = typer.Option(help="Answer this about each file, instead of a caption")
_MODE = typer.Option(
    help="How words are chosen: as the released code does, with its quirks, where a folder is from a released file; else standard"
)
_BEAMS = typer.Option(help="Sequences that beam search keeps (standard, released)")
_TEMPERATURE = typer.Option(help="Below 1 likelier words are drawn, above 1 less likely ones (sample)")
_TOP_P = typer.Option(help="Draw among the fewest likeliest words that have this probability together (sample)")
_SEED = typer.Option(help="Of the draws (sample)")
_VOCAB = typer.Option(metavar="FILE", help="The vocabulary, if it is not where the run had it")


def predict(
    place: Annotated[Path, _PLACE],
    files: Annotated[list[Path], _FILES],
    question: Annotated[str | None, _QUESTION] = None,
    mode: Annotated[Mode | None, _MODE] = None,
    beams: Annotated[int, _BEAMS] = _DEFAULT.beams,
    temperature: Annotated[float, _TEMPERATURE] = _DEFAULT.temperature,
    top_p: Annotated[float, _TOP_P] = _DEFAULT.top_p,
    seed: Annotated[int, _SEED] = _DEFAULT.seed,
    vocab: Annotated[Path | None, _VOCAB] = None,
) -> None:
    """Caption pictures and clips, or answer a question about them, on one CPU or GPU: a line for each file.

    A file that cannot be read is told, and the others are done all the same; the exit status is then 2.
    """
    if question is not None and not question.strip():
        raise UserError("--question is empty: leave it out for a caption")

    from megatron_mplug2.conversion.exported_model import is_exported
    from megatron_mplug2.evaluation.predict import MediaFile, look_at
    from megatron_mplug2.evaluation.predict import predict as told_by

    exported = is_exported(place)
    chosen = mode or (_mode_of(place) if exported else _DEFAULT.mode)
    decoding = Decoding(mode=chosen, beams=beams, temperature=temperature, top_p=top_p, seed=seed)
    told = _Told(len(files))
    media: list[MediaFile] = []
    for found in map(look_at, files):
        if isinstance(found, MediaFile):
            media.append(found)
        else:
            told.fault(found)
    if media:
        with_model = _with_exported_model if exported else _with_trained_model
        with_model(place, vocab, decoding, lambda model: told.all(told_by(model, media, question)))
    told.end()


class _Told:
    """What goes to the terminal. Of a single file its text or its error alone, of several the name of each too."""

    def __init__(self, files: int) -> None:
        self._files, self._faults = files, 0

    def all(self, found: "Iterable[Said | Fault]") -> None:
        from megatron_mplug2.evaluation.predict import Said

        for one in found:
            if isinstance(one, Said):
                typer.echo(one.text if self._files == 1 else f"{one.path}: {one.text}")
            else:
                self.fault(one)

    def fault(self, fault: "Fault") -> None:
        """Raises UserError where it is of the only file."""
        if self._files == 1:
            raise UserError(str(fault))
        self._faults += 1
        typer.echo(str(fault), err=True)

    def end(self) -> None:
        """Raises UserError where there was a fault."""
        if self._faults:
            raise UserError(f"{self._faults} of {self._files} files cannot be read (listed above)")


def _with_trained_model(place: Path, vocab: Path | None, decoding: Decoding, work: "Callable[[Model], None]") -> None:
    """Calls `work` with the model of a checkpoint of ours, which needs Megatron-Core's one rank around it."""
    from launchers.local import launch
    from megatron_mplug2.evaluation import model
    from megatron_mplug2.evaluation.predict import TrainedModel

    def on_its_rank(config: "RunConfig") -> None:
        inference, found = model.trained(config, place)
        for line in found.said:
            typer.echo(line, err=True)
        work(TrainedModel(inference, config, decoding))

    launch(_alone(model.recorded_config(place), vocab), on_its_rank)


def _with_exported_model(folder: Path, vocab: Path | None, decoding: Decoding, work: "Callable[[Model], None]") -> None:
    """The same with the weights of a folder that `mplug2 convert` wrote."""
    from launchers.local import launch
    from megatron_mplug2.conversion.exported_model import exported_config, load_exported
    from megatron_mplug2.evaluation import model
    from megatron_mplug2.evaluation.predict import TrainedModel

    def on_its_rank(config: "RunConfig") -> None:
        inference, weights = model.built(config)
        load_exported(folder, weights, inference.context.topology)
        work(TrainedModel(inference, config, decoding))

    launch(_alone(exported_config(folder), vocab), on_its_rank)


def _mode_of(folder: Path) -> Mode:
    from megatron_mplug2.conversion.exported_model import search_of

    return Mode(search_of(folder).value)


def _alone(config: "RunConfig", vocab: Path | None) -> "RunConfig":
    """A run's config for one rank that has this machine's cores to itself."""
    from megatron_mplug2.config.layout import LayoutConfig

    training = config.training.model_copy(update={"threads": len(os.sched_getaffinity(0))})
    data = config.data if vocab is None else config.data.model_copy(update={"vocab": vocab})
    return config.model_copy(update={"layout": LayoutConfig(), "training": training, "data": data})
