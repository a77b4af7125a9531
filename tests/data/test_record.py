"""Records as they come from tars of anyone's making."""

import json
from typing import Any

import pytest

from megatron_mplug2.data.record import Question, Record, Region

FULL = Record(
    captions=("a red square", "ein rotes Quadrat \u200b"),
    questions=(
        Question(question="what ?", answer="red"),
        Question(question="where ?", answer="left", kind="place", reversed_answer="right", answers=("left", "here")),
    ),
    text="a document",
    second_text="another",
    label="square",
    regions=(Region(box=(1.0, 2.5, 3.0, 4.0), phrases=("the red one",)),),
    span_s=(0.5, 2.0),
    attributes={"color": "red"},
)


@pytest.mark.parametrize("record", [FULL, Record(attributes={})])
def test_round_trip(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("captions", [7]),
        ("captions", [["a"]]),
        ("captions", [None]),
        ("captions", "a text"),
        ("questions", [{"question": 1, "answer": "red"}]),
        ("questions", [{"question": "what ?", "answer": 2}]),
        ("questions", [{"question": "what ?", "answer": None}]),
        ("questions", [{"question": "what ?", "answer": "red", "kind": 3}]),
        ("questions", [{"question": "what ?", "answer": "red", "reversed_answer": 3}]),
        ("questions", [{"question": "what ?", "answer": "red", "answers": [3]}]),
        ("questions", [{"question": "what ?", "answer": "red", "answers": "red"}]),
        ("questions", ["what ?"]),
        ("text", 1),
        ("text", None),
        ("second_text", ["a"]),
        ("label", 3),
        ("regions", [{"box": [0, 0, 1, 1], "phrases": [4]}]),
        ("regions", [{"box": [0, 0, 1, 1], "phrases": "it"}]),
        ("regions", [{"box": [0, 0, 1, 10**400], "phrases": ["it"]}]),
        ("span_s", [0, 10**400]),
        ("attributes", {"color": ["red"]}),
        ("attributes", 5),
    ],
)
def test_what_is_no_text_is_no_record(field: str, value: Any) -> None:
    fields = json.loads(FULL.to_json()) | {field: value}
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)) as error:
        Record.from_json(json.dumps(fields).encode())
    assert len(str(error.value)) < 100
