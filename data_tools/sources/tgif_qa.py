"""TGIF-QA, FrameQA: ANNOTATION is `Train_frameqa_question.csv` or `Test_frameqa_question.csv`, --media the folder of TGIF's GIFs.

    gif_name<TAB>question<TAB>answer<TAB>type<TAB>...
    tumblr_no73q2fm0I1uuf348o1_250<TAB>what is being placed in the white ice cream cone ?<TAB>cookie<TAB>0<TAB>...

The type is 0 for an object, 1 for a number, 2 for a color, 3 for a location. The questions of one GIF, at DIR/gif_name.gif, are gathered;
there are no captions. The file is one split's; --split says which. Other columns are passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_tools.sample import MediaPlace, Sample
from data_tools.sources.base import file_in, one_of, read_tabs, wrong_layout
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Question, Record

_KINDS = {"0": "object", "1": "number", "2": "color", "3": "location"}


@dataclass(frozen=True)
class TgifQaSource:
    split: Split

    def samples(self, annotation: Path, media: Path) -> Iterator[Sample]:
        questions: dict[str, list[Question]] = {}
        try:
            rows = read_tabs(annotation)
            _, head = next(rows, (0, []))
            name, question, answer, kind = (head.index(column) for column in ("gif_name", "question", "answer", "type"))
            for number, columns in rows:
                if len(columns) != len(head):
                    raise ValueError(f"row {number} has {len(columns)} columns, not {len(head)}")
                asked = Question(
                    question=columns[question], answer=columns[answer], kind=one_of(columns[kind], _KINDS, f"the type in row {number}")
                )
                questions.setdefault(columns[name], []).append(asked)
            for key, many in questions.items():
                record = Record(questions=tuple(many), attributes={})
                file = file_in(media, f"{key}.gif")
                yield Sample(split=self.split, stream=Task.VIDEO_TEXT, key=key, media=MediaPlace(path=file), record=record)
        except (TypeError, ValueError) as error:
            raise wrong_layout(annotation, "tgif_qa", error) from None
