"""The `mplug2 predict` command: what a trained model says about files."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.generation.settings import Decoding, Mode

if TYPE_CHECKING:
    from megatron_mplug2.config.schema import RunConfig
    from megatron_mplug2.evaluation.choice import Choice
    from megatron_mplug2.evaluation.inference import Inference
    from megatron_mplug2.evaluation.media_files import Fault, Said

_DEFAULT = Decoding()
_PLACE = typer.Argument(
    metavar="RUN|CHECKPOINT|FOLDER", help="A run (its best or newest checkpoint), a checkpoint, or a folder of `mplug2 convert`"
)
_FILES = typer.Argument(
    metavar="FILE...",
    help="Pictures and clips; of a run that judges pairs of pictures left, right, left, ...; "
    "of one that classifies texts, files with one on each line, or two with a tab between",
)
_QUESTION = typer.Option(help="Answer this about each file, instead of a caption; of a run of entailment the sentence that is judged")
_ANSWERS = typer.Option(
    metavar="FILE", help="Choose among these answers, or classes, one on each line, also instead of a run's own classes"
)
_MODE = typer.Option(
    help="How words are chosen: as the released code does, with its quirks, where a folder is from a released file; greedy for boxes; "
    "else standard"
)
_BEAMS = typer.Option(help="Sequences that beam search keeps (standard, released)")
_TEMPERATURE = typer.Option(help="Below 1 likelier words are drawn, above 1 less likely ones (sample)")
_TOP_P = typer.Option(help="Draw among the fewest likeliest words that have this probability together (sample)")
_SEED = typer.Option(help="Of the draws (sample)")
_VOCAB = typer.Option(metavar="FILE", help="The vocabulary, if it is not where the run had it")

_Work = Callable[["Inference"], None]


def predict(
    place: Annotated[Path, _PLACE],
    files: Annotated[list[Path], _FILES],
    question: Annotated[str | None, _QUESTION] = None,
    answers: Annotated[Path | None, _ANSWERS] = None,
    mode: Annotated[Mode | None, _MODE] = None,
    beams: Annotated[int, _BEAMS] = _DEFAULT.beams,
    temperature: Annotated[float, _TEMPERATURE] = _DEFAULT.temperature,
    top_p: Annotated[float, _TOP_P] = _DEFAULT.top_p,
    seed: Annotated[int, _SEED] = _DEFAULT.seed,
    vocab: Annotated[Path | None, _VOCAB] = None,
) -> None:
    """Caption pictures and clips, or answer a question about them, on one CPU or GPU: a line for each file.

    A run that was finetuned on a closed list of classes tells the likeliest of them with their probabilities, as its evaluation finds them;
    so does any other with --answers.

    A file that cannot be read is told, and the others are done all the same; the exit status is then 2.
    """
    if question is not None and is_blank(question):
        raise UserError("--question is empty: leave it out for a caption")
    if place.is_file():
        raise UserError(f"{place} is a file: name a run, a checkpoint or a folder; `mplug2 convert official` makes one of a released .pth")

    from megatron_mplug2.conversion.exported_model import exported_config, is_exported
    from megatron_mplug2.evaluation.choice import choice_of
    from megatron_mplug2.evaluation.model import recorded_config

    exported = is_exported(place)
    asked = Decoding(mode=mode or _DEFAULT.mode, beams=beams, temperature=temperature, top_p=top_p, seed=seed)
    run = _alone(exported_config(place, vocab) if exported else recorded_config(place), vocab)
    decoding = replace(asked, mode=_usual_mode(place, run)) if mode is None else asked
    choice = choice_of(run, question, answers)
    with_model = _with_exported_model if exported else _with_trained_model
    if choice is None:
        _speak(files, question, decoding, run, lambda work: with_model(place, run, work))
    elif asked != _DEFAULT:
        raise UserError(
            "--mode, --beams, --temperature, --top-p and --seed are for free words, not for a choice from a list: leave them out"
        )
    else:
        _choose(files, choice, lambda work: with_model(place, choice.run, work))


def _speak(files: Sequence[Path], question: str | None, decoding: Decoding, run: "RunConfig", with_model: Callable[[_Work], None]) -> None:
    from megatron_mplug2.evaluation.media_files import MediaFile, look_at
    from megatron_mplug2.evaluation.predict import TrainedModel
    from megatron_mplug2.evaluation.predict import predict as told_by

    found = [look_at(file) for file in files]
    told = _Told(len(found), "files")
    told.faults(one for one in found if not isinstance(one, MediaFile))
    if media := [one for one in found if isinstance(one, MediaFile)]:
        with_model(lambda inference: told.all(told_by(TrainedModel(inference, run, decoding), media, question)))
    told.end()


def _choose(files: Sequence[Path], choice: "Choice", with_model: Callable[[_Work], None]) -> None:
    from megatron_mplug2.evaluation.choice import Item
    from megatron_mplug2.evaluation.choose import Chooser

    found = list(choice.items(files))
    told = _Told(len(found), choice.items_are)
    told.faults(one for one in found if not isinstance(one, Item))
    if items := [one for one in found if isinstance(one, Item)]:
        with_model(lambda inference: told.all(Chooser(inference, choice).chosen(items)))
    told.end()


class _Told:
    """What goes to the terminal. Of a single item its text or its error alone, of several the name of each too."""

    def __init__(self, items: int, items_are: str) -> None:
        self._items, self._items_are, self._faults = items, items_are, 0

    def all(self, found: "Iterable[Said | Fault]") -> None:
        from megatron_mplug2.evaluation.media_files import Said

        for one in found:
            if isinstance(one, Said):
                typer.echo(one.text if self._items == 1 else f"{one.name}: {one.text}")
            else:
                self._fault(one)

    def faults(self, found: "Iterable[Fault]") -> None:
        for one in found:
            self._fault(one)

    def _fault(self, fault: "Fault") -> None:
        """Raises UserError where it is of the only item."""
        if self._items == 1:
            raise UserError(str(fault))
        self._faults += 1
        typer.echo(str(fault), err=True)

    def end(self) -> None:
        """Raises UserError where there was a fault."""
        if self._faults:
            raise UserError(f"{self._faults} of {self._items} {self._items_are} cannot be read (listed above)")


def _with_trained_model(place: Path, run: "RunConfig", work: _Work) -> None:
    """Calls `work` with the model of a checkpoint of ours, which needs Megatron-Core's one rank around it."""
    from launchers.local import launch
    from megatron_mplug2.evaluation import model

    def on_its_rank(config: "RunConfig") -> None:
        inference, found = model.trained(config, place)
        for line in found.said:
            typer.echo(line, err=True)
        work(inference)

    launch(run, on_its_rank)


def _with_exported_model(folder: Path, run: "RunConfig", work: _Work) -> None:
    """The same with the weights of a folder that `mplug2 convert` wrote."""
    from launchers.local import launch
    from megatron_mplug2.conversion.exported_model import load_exported
    from megatron_mplug2.evaluation import model

    def on_its_rank(config: "RunConfig") -> None:
        inference, weights = model.built(config)
        load_exported(folder, weights, inference.context.topology)
        work(inference)

    launch(run, on_its_rank)


def _usual_mode(place: Path, run: "RunConfig") -> Mode:
    """As an evaluation decodes: a box in its likeliest tokens."""
    from megatron_mplug2.config.downstream import FamilyKind
    from megatron_mplug2.conversion.exported_model import is_exported, search_of

    if run.downstream is not None and run.downstream.family.kind is FamilyKind.GROUNDING:
        return Mode.GREEDY
    return Mode(search_of(place).value) if is_exported(place) else _DEFAULT.mode


def _alone(config: "RunConfig", vocab: Path | None) -> "RunConfig":
    """A run's config for one rank that has this machine's cores to itself."""
    from megatron_mplug2.config.layout import LayoutConfig

    training = config.training.model_copy(update={"threads": len(os.sched_getaffinity(0))})
    data = config.data if vocab is None else config.data.model_copy(update={"vocab": vocab})
    return config.model_copy(update={"layout": LayoutConfig(), "training": training, "data": data})
