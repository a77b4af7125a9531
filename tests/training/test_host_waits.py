"""A step's passes are queued without a look at what the device computes, or a GPU would stand still.

Counted on the CPU, where nobody waits: by the operations whose result's value or size the host has to know, and by the calls that read
whole tensors, which dispatch nothing there.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.objectives import VLCConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.training.step import backward
from tests.ranks import run_ranks
from tests.training import cases, record
from tests.training.test_queue import QUEUE

WAITED_FOR = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}


class Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        self.seen[name] += name in WAITED_FOR
        return func(*args, **(kwargs or {}))


def waits(task: Task, vlc: VLCConfig, microbatch: int) -> dict[str, int]:
    config = cases.config(LayoutConfig(), microbatch=microbatch, vlc=vlc)
    engine = record.begin(config)
    with Waits() as counting, pytest.MonkeyPatch.context() as patch:
        for name in ("tolist", "numpy", "cpu"):
            patch.setattr(torch.Tensor, name, _noted(getattr(torch.Tensor, name), name, counting.seen))
        backward(engine, cases.work(config, 0, task, 0, 1))
    return dict(+counting.seen)


def _noted(call: Callable[..., Any], name: str, seen: Counter[str]) -> Callable[..., Any]:
    def noted(tensor: torch.Tensor, *args: Any) -> Any:
        seen[name] += 1
        return call(tensor, *args)

    return noted


@pytest.mark.parametrize(
    ("task", "vlc", "microbatch", "expected"),
    [
        (Task.TEXT, cases.VLC, 4, {"aten::nonzero": 4}),
        (Task.VIDEO_TEXT, cases.VLC, 4, {}),
        (Task.IMAGE_TEXT, QUEUE, 16, {"aten::_local_scalar_dense": 1}),
    ],
    ids=["text: the number of masked tokens", "two passes: nothing", "queue: how full it is, which lies on the host"],
)
def test_the_host_waits_for_nothing_but(task: Task, vlc: VLCConfig, microbatch: int, expected: dict[str, int]) -> None:
    assert run_ranks(1, waits, task, vlc, microbatch) == [expected]
