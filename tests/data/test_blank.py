"""Texts that say nothing."""

import pytest

from megatron_mplug2.data.blank import is_blank


@pytest.mark.parametrize("text", ["", " \t\n\u3000", "\u200b", "\ufeff\u200d \u2060", "\u00ad", "\0"])
def test_nothing_to_be_seen(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "\u200b?\u200b", "猫", "\U0001f600", "́"])
def test_something(text: str) -> None:
    assert not is_blank(text)
