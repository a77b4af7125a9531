"""Recompute by kind of block: which blocks run twice, and what is then not kept."""

from collections import Counter

import torch

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.model import Block
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.step import backward
from tests.ranks import run_ranks
from tests.training import cases


def passes_and_bytes(recompute: tuple[Block, ...]) -> tuple[dict[str, int], int]:
    """How often each unit's module runs in a step on clips, and the bytes that autograd keeps from forward to backward."""
    config = cases.config(LayoutConfig(), recompute=recompute)
    engine = make_engine(config)
    cases.randomise(engine.weights, engine.topology)
    passes: Counter[str] = Counter()
    for unit in engine.stage.units:
        engine.stage.block(unit.name).register_forward_pre_hook(lambda *_, name=unit.name: passes.update([name]))
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backward(engine, cases.work(config, 0, Task.VIDEO_TEXT, 0, 1))
    return dict(passes), sum(kept.values())


def test_the_named_kinds_run_twice_and_keep_less() -> None:
    (plain, all_kept), (vision, some_kept), (full, least_kept) = (
        run_ranks(1, passes_and_bytes, recompute)[0] for recompute in ((), (Block.VISION,), tuple(Block))
    )
    assert set(plain.values()) == {1}
    assert vision == {name: 2 if name.startswith("vision.") else 1 for name in plain}
    assert full == {name: 1 if name.startswith("heads.") else 2 for name in plain}
    assert least_kept < some_kept < all_kept
