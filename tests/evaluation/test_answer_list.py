from pathlib import Path

import pytest

from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.answer_list import read_answers


def test_answers_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("Yes\n no \ntwo dogs")
    found = read_answers(tmp_path / "answers")
    assert found.answers == ("yes", "no", "two dogs")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"yes\n\nno\n", r"answers, line 2: empty; "),
        (b"yes\nno\nYES \n", r"answers, line 3: 'yes' is there already, on line 1; "),
        (b"yes\n", r"answers has 1 answers: "),
        (b"", r"answers has 0 answers: "),
        (b"yes\n\xff\n", r"answers is not text in UTF-8 \(byte 4\)"),
        (None, r"cannot read the answers in .*answers: No such file"),
    ],
)
def test_a_bad_list_is_told_in_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "answers").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read_answers(tmp_path / "answers")
    assert "\n" not in str(error.value)
