"""Lists of classes, and what the lines of a file may be."""

from pathlib import Path

import pytest

from megatron_mplug2.data.class_list import ClassList, read_classes
from megatron_mplug2.errors import UserError


def written(folder: Path, text: str) -> ClassList:
    (folder / "classes.txt").write_text(text, encoding="utf-8")
    return read_classes(folder / "classes.txt")


def test_a_label_is_known_by_its_words(tmp_path: Path) -> None:
    classes = written(tmp_path, "tench, Tinca tinca\n Crane, bird \n")
    assert classes.names == ("tench, tinca tinca", "crane, bird") and classes.numbers is None
    assert [classes.place(label) for label in ("Tench, Tinca Tinca", "crane, bird ", "crane", "")] == [0, 1, None, None]


def test_a_number_is_the_nearest_of_numbers(tmp_path: Path) -> None:
    """Of STS-B: 3.75 lies between two of T5's, 2.5 halfway between two."""
    classes = written(tmp_path, "".join(f"{number / 5:.1f}\n" for number in range(26)))
    assert classes.numbers is not None and classes.numbers[19] == 3.8
    said = [classes.place(label) for label in ("5.000", "0", "3.75", "2.5", "nan", "much")]
    assert said[:3] == [25, 0, 19] and said[3] in (12, 13) and said[4:] == [None, None]
    assert written(tmp_path, "1\n2\nmany\n").numbers is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("red\n\nblue\n", r"classes\.txt, line 2: empty; write one class on each line$"),
        ("red\nRed\n", r"classes\.txt, line 2: 'red' is there already, on line 1; leave one of them$"),
        ("1\n2\n1.0\n", r"classes\.txt: 1 and 1\.0 are one number: leave one of them$"),
        ("red\n", r"classes\.txt has 1 classes: there is nothing to choose; write one class on each line$"),
    ],
)
def test_a_list_that_is_none(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        written(tmp_path, text)


def test_no_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cannot read the classes in .*classes\.txt: No such file"):
        read_classes(tmp_path / "classes.txt")


def test_classes_of_an_exported_model(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"id2label": {"1": "green", "0": "Red", "2": "blue"}}')
    assert read_classes(path).names == ("red", "green", "blue")
    wrong = (
        '{"id2label": {"0": "red"}}',
        '{"id2label": {"0": "red", "2": "blue"}}',
        '{"id2label": {"0": "red", "1": " Red"}}',
        "{}",
        "[]",
        "{",
    )
    for text in wrong:
        path.write_text(text)
        with pytest.raises(UserError, match=r"config\.json has no id2label with two or more classes, each once, numbered from 0: name"):
            read_classes(path)
    with pytest.raises(UserError, match=r"^cannot read the classes in .*gone\.json: No such file"):
        read_classes(tmp_path / "gone.json")
