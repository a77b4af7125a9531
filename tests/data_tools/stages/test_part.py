"""`--part`."""

import pytest

from data_tools.stages.part import Part
from megatron_mplug2.errors import UserError


def test_parts_share_out_every_piece_once() -> None:
    parts = [Part.parse(f"{index}/3") for index in (1, 2, 3)]
    assert [[part.has(number) for part in parts].count(True) for number in range(10)] == [1] * 10
    assert str(parts[1]) == "2/3"
    assert Part().has(7)


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3 ", "١/٣"])
def test_no_part(text: str) -> None:
    with pytest.raises(UserError, match="such as 2/8"):
        Part.parse(text)
