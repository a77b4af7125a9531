"""Commands are read before anything is submitted: what they would refuse is refused."""

import re
import shlex

import pytest

from megatron_mplug2.errors import UserError
from tests.launchers.commands import read


def test_a_command_is_read_and_not_run() -> None:
    found = read(["data", "shard", "listing", "a dir", "--out", "$(touch obeyed)", "--shard-mb=3"])
    assert (found.name, found.arguments) == (("data", "shard"), ("listing", "a dir", "--out", "$(touch obeyed)", "--shard-mb=3"))
    assert found.divisible and found.values["shard_mb"] == 3
    assert str(found) == "mplug2 data shard listing 'a dir' --out '$(touch obeyed)' --shard-mb=3"


def test_which_can_be_shared() -> None:
    assert read(["data", "verify", "shards"]).divisible
    assert not read(["data", "tokenizer", "shards", "--out", "vocab.txt"]).divisible
    assert not read(["pretrain", "a.yaml", "name=b"]).divisible


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("pretran a.yaml", "no such command: 'pretran' is unknown; try pretrain"),
        ("data shrad listing a --out b", "no such command: 'shrad' is unknown; try shard"),
        ("data", "no such command: a word is missing; try classes, demo, filter, index,"),
        ("", "no such command: a word is missing; try "),
        ("data shard listing a", "Missing option '--out'"),
        ("data shard listing a --out b --shard-gb 1", "No such option"),
        ("data shard listing a --out b --shard-mb many", "Invalid value for '--shard-mb': Input should be a valid integer"),
        ("launch a.yaml --cluster b", "this is no work for a job"),
        ("pretrain 'a\nb.yaml'", "a word has a line break"),
    ],
)
def test_a_mistake_is_one_line(typed: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        read(shlex.split(typed))
    assert "\n" not in str(error.value)


def test_help_is_no_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="prints help and does nothing else"):
        read(["data", "shard", "--help"])
