"""GLUE: ANNOTATION is `train.tsv`, `dev.tsv` or `test.tsv` in the folder of its task, such as `GLUE/RTE/dev.tsv`; there are no media.

    index<TAB>sentence1<TAB>sentence2<TAB>label
    0<TAB>Dana Reeve has died.<TAB>Christopher Reeve had an accident.<TAB>not_entailment

The folder is CoLA, SST-2, MRPC, QQP, STS-B, MNLI, QNLI, RTE or WNLI, and says which columns are the one or two texts and the label. The
label is given in words; that of STS-B is the score. CoLA has no head but in its test; a test has no labels. Rows that lack columns (QQP
has some) are left out. The file is one split's; --split says which.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import Reason, Sample
from data_tools.sources.base import one_of, read_tabs, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Record
from megatron_mplug2.errors import UserError

_ENTAILMENT = {word: word.replace("_", " ") for word in ("entailment", "not_entailment", "neutral", "contradiction")}
_COLA = ["source", "label", "mark", "sentence"]
"""The columns of the files of CoLA that have no head."""


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Which of a task's columns are what."""

    first: str
    second: str = ""
    label: str = "label"
    words: Mapping[str, str]
    """What the labels mean; empty where they say it themselves."""


_TASKS = {
    "CoLA": _Columns(first="sentence", words={"0": "unacceptable", "1": "acceptable"}),
    "SST-2": _Columns(first="sentence", words={"0": "negative", "1": "positive"}),
    "MRPC": _Columns(first="#1 String", second="#2 String", label="Quality", words={"0": "not equivalent", "1": "equivalent"}),
    "QQP": _Columns(first="question1", second="question2", label="is_duplicate", words={"0": "not duplicate", "1": "duplicate"}),
    "STS-B": _Columns(first="sentence1", second="sentence2", label="score", words={}),
    "MNLI": _Columns(first="sentence1", second="sentence2", label="gold_label", words=_ENTAILMENT),
    "QNLI": _Columns(first="question", second="sentence", words=_ENTAILMENT),
    "RTE": _Columns(first="sentence1", second="sentence2", words=_ENTAILMENT),
    "WNLI": _Columns(first="sentence1", second="sentence2", words={"0": "not entailment", "1": "entailment"}),
}
"""The meaning of the numbers is that of the tasks' own papers."""


@dataclass(frozen=True)
class GlueSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        task = _task(annotation)
        columns = _TASKS[task]
        head: list[str] = []
        try:
            for number, row in read_tabs(annotation):
                if not head:
                    head = _COLA if task == "CoLA" and columns.first not in row else row
                    _check(head, columns)
                    if head is row:
                        continue
                yield self._sample(number, row, head, columns)
        except ValueError as error:
            raise wrong_layout(annotation, "glue", error) from None

    def _sample(self, number: int, row: list[str], head: list[str], columns: _Columns) -> Sample:
        if len(row) != len(head):
            empty = Sample(split=self.split, stream=Task.TEXT, key=f"row{number}", media=None, record=Record(attributes={}))
            return empty.without(Reason.NO_TEXT, f"{len(row)} columns, not {len(head)}")
        fields = dict(zip(head, row, strict=True))
        label = fields.get(columns.label)
        if label is not None and columns.words:
            label = one_of(label, columns.words, f"the {columns.label} in row {number}")
        record = Record(text=fields[columns.first], second_text=fields.get(columns.second, ""), label=label, attributes={})
        return Sample(split=self.split, stream=Task.TEXT, key=f"row{number}", media=None, record=record)


def _task(annotation: Path) -> str:
    folder = annotation.absolute().parent.name
    found = next((task for task in _TASKS if task.replace("-", "").lower() == folder.replace("-", "").lower()), None)
    if found is None:
        raise UserError(f"{annotation} is in the folder {folder!r}, which is no task of GLUE: name the folder {', '.join(_TASKS)}")
    return found


def _check(head: list[str], columns: _Columns) -> None:
    for column in filter(None, (columns.first, columns.second)):
        if column not in head:
            raise ValueError(f"there is no column {column!r} in the head")
