"""A rank that fails alone takes the others with it, by a message to the person or as a defect."""

import os
import time
from collections.abc import Callable

import pytest
import torch.distributed as dist

from megatron_mplug2.checkpoint.together import from_rank_0, gather, together
from megatron_mplug2.errors import UserError
from tests.ranks import run_ranks


def on_rank_1(fail: Callable[[], object]) -> tuple[str, str]:
    try:
        with together("do the work"):
            if dist.get_rank() == 1:
                fail()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def user_error() -> None:
    raise UserError("do this")


def no_such_file() -> None:
    open("/nowhere/file")  # noqa: SIM115


def disk_full() -> None:
    with open("/dev/full", "w", buffering=1) as file:
        file.write("text\n")


def defect() -> None:
    raise ValueError("a defect")


@pytest.mark.parametrize(
    ("fail", "there", "elsewhere"),
    [
        (user_error, ("UserError", "do this"), ("UserError", "do this")),
        (no_such_file, *[("UserError", "cannot do the work: No such file or directory (/nowhere/file)")] * 2),
        (disk_full, *[("UserError", "cannot do the work: No space left on device")] * 2),
        (defect, ("ValueError", "a defect"), ("RuntimeError", "rank 1 failed: ValueError: a defect")),
        (time.time, ("", ""), ("", "")),
    ],
    ids=["message", "no file", "disk full", "defect", "nothing"],
)
def test_all_fail_or_none(fail: Callable[[], object], there: tuple[str, str], elsewhere: tuple[str, str]) -> None:
    assert run_ranks(3, on_rank_1, fail) == [elsewhere, there, elsewhere]


def exchange() -> tuple[list[str], str]:
    rank = os.environ["RANK"]
    return gather(f"of {rank}"), from_rank_0(f"from {rank}")


def test_exchange() -> None:
    assert run_ranks(2, exchange) == [(["of 0", "of 1"], "from 0")] * 2


def two_fail() -> str:
    try:
        with together("do the work"):
            if dist.get_rank():
                raise UserError(f"do {dist.get_rank()}")
    except UserError as error:
        return str(error)
    return ""


def test_all_say_the_same_line() -> None:
    assert run_ranks(3, two_fail) == ["do 1"] * 3
