"""What is chosen among for files that a person names: the classes that a run was finetuned on, or answers from a list."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_mplug2.config.downstream import Family, FamilyKind
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.class_list import ClassList
from megatron_mplug2.data.labelling import Labelling, labelling_of
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.views import WHOLE, EvaluationView, evaluation_views
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.answer_list import read_answers
from megatron_mplug2.evaluation.media_files import Fault, MediaFile, look_at, unreadable

_NAMES = {Task.IMAGE_TEXT: "picture", Task.VIDEO_TEXT: "clip"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """A class or an answer is chosen for it: a picture, a clip, a pair of pictures, or a text."""

    name: str
    task: Task
    files: tuple[MediaFile, ...]
    """None of a text."""
    record: Record
    """The texts that belong to it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One for all files of a command."""

    run: RunConfig
    question: str | None
    """Of entailment the sentence."""
    own: Labelling | None
    """Of a run that was finetuned on classes."""
    answers: ClassList | None
    """Of any other run."""

    @property
    def views(self) -> tuple[EvaluationView, ...]:
        """As an evaluation of the run looks at a picture or a clip."""
        classes = self.run.downstream.classes if self.run.downstream is not None else None
        return (WHOLE,) if classes is None else evaluation_views(classes.segments, classes.crops)

    @property
    def items_are(self) -> str:
        """In the plural."""
        if self.own is not None and self.own.family.task is Task.TEXT:
            return "texts"
        return "pairs" if self.run.pictures > 1 else "files"

    def labelling(self, task: Task) -> Labelling:
        """The list, and what is asked about a picture or a clip; without a question what is asked for a caption."""
        if self.own is not None:
            return self.own
        assert self.answers is not None
        lm, of_clips = self.run.objectives.lm, task is Task.VIDEO_TEXT
        instruction = self.question or (lm.video_instruction if of_clips else lm.image_instruction)
        return Labelling(family=Family.VIDEO_QA if of_clips else Family.IMAGE_QA, classes=self.answers, instruction=instruction)

    def items(self, files: Sequence[Path]) -> Iterator[Item | Fault]:
        """In the order of the files. Raises UserError for a picture that has no second one, where a pair is judged."""
        if self.own is not None and self.own.family.task is Task.TEXT:
            for path in files:
                yield from _texts(path)
            return
        together = self.run.pictures
        if len(files) % together:
            raise UserError(f"a pair is two pictures, left and right: {len(files)} files are no pairs, name one more or one less")
        for start in range(0, len(files), together):
            yield self._media(files[start : start + together])

    def _media(self, paths: Sequence[Path]) -> Item | Fault:
        looked_at = [self._wanted(look_at(path)) for path in paths]
        found = tuple(one for one in looked_at if isinstance(one, MediaFile))
        faults = [one for one in looked_at if isinstance(one, Fault)]
        if faults:
            return faults[0]
        record = Record(captions=() if self.question is None else (self.question,), attributes={})
        return Item(name=" + ".join(map(str, paths)), task=found[0].task, files=found, record=record)

    def _wanted(self, file: MediaFile | Fault) -> MediaFile | Fault:
        """A run of classes was taught pictures alone, or clips."""
        if isinstance(file, Fault) or self.own is None or file.task is self.own.family.task:
            return file
        return Fault(name=str(file.path), reason=f"is a {_NAMES[file.task]}, but the run classifies {_NAMES[self.own.family.task]}s")


def choice_of(run: RunConfig, question: str | None, answers: Path | None) -> Choice | None:
    """None where the model is to speak freely. `answers` take the place of a run's own list of classes.

    Raises UserError for a list that cannot be used, a question that the run was not taught, or a sentence that lacks.
    """
    downstream = run.downstream
    if downstream is not None and downstream.classes is not None:
        _check_question(downstream.family, question)
        if answers is not None:
            classes = downstream.classes.model_copy(update={"file": answers})
            run = run.model_copy(update={"downstream": downstream.model_copy(update={"classes": classes})})
        return Choice(run=run, question=question, own=labelling_of(run), answers=None)
    if answers is None:
        return None
    if downstream is not None and downstream.family.kind is FamilyKind.GROUNDING:
        raise UserError("--answers: a run of grounding answers with a box; leave it out")
    listed = read_answers(answers)
    return Choice(run=run, question=question, own=None, answers=ClassList(path=listed.path, names=listed.answers))


def _check_question(family: Family, question: str | None) -> None:
    if family.kind is FamilyKind.ENTAILMENT and question is None:
        raise UserError(f"the run is of {family}, which judges a sentence: give it as --question")
    if family.kind is FamilyKind.CLASSIFICATION and question is not None:
        raise UserError(f"--question: the run is of {family}, which says the class and nothing else; leave it out")


def _texts(path: Path) -> Iterator[Item | Fault]:
    """One on each line that is not empty, or two with a tab between."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        yield unreadable(path, error)
        return
    except UnicodeDecodeError as error:
        yield Fault(name=str(path), reason=f"is not text in UTF-8 (byte {error.start}): the run classifies texts, one on each line")
        return
    if all(is_blank(line) for line in lines):
        yield Fault(name=str(path), reason="has no text")
    for number, line in enumerate(lines, 1):
        name, (first, *others) = f"{path}, line {number}", line.strip().split("\t")
        if len(others) > 1:
            yield Fault(name=name, reason=f"{len(others)} tabs; write a text, or two with a tab between")
        elif not is_blank(first):
            record = Record(text=first, second_text="".join(others), attributes={})
            yield Item(name=name, task=Task.TEXT, files=(), record=record)
        elif not is_blank("".join(others)):
            yield Fault(name=name, reason="has no first text before its tab")
