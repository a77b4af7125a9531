"""How a layout follows the number of ranks."""

from pathlib import Path

import pytest

from launchers.layout_rules import layout_overrides
from megatron_mplug2.config.load import load_config
from megatron_mplug2.errors import UserError

LARGE = Path(__file__).parents[2] / "configs/pretrain/large.yaml"
SMALL = ("training.global_batch=64", "training.microbatch=16", "objectives.vlm.group=4", "layout.data=4")


def overrides(ranks: int, *more: str) -> tuple[str, ...]:
    changes = layout_overrides(load_config(LARGE, [*SMALL, *more]), ranks)
    load_config(LARGE, [*SMALL, *more, *changes])  # a config that holds
    return changes


def test_the_data_parallel_size_follows_and_the_microbatch_where_it_must() -> None:
    """Large has tensor parallelism of 2."""
    assert overrides(8) == ("layout.data=4",)
    assert overrides(4) == ("layout.data=2",)
    assert overrides(16) == ("layout.data=8", "training.microbatch=8")
    assert overrides(6, "training.global_batch=48", "layout.data=3") == ("layout.data=3",)
    assert overrides(8, "training.global_batch=48", "layout.data=3") == ("layout.data=4", "training.microbatch=12")
    assert overrides(64, "objectives.vlm.weight=0") == ("layout.data=32", "training.microbatch=2"), "groups are VLM's alone"


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (7, "7 ranks cannot be shared out by layout.tensor=2 x layout.pipeline=1"),
        (6, "training.global_batch=64 cannot be shared out to 3 data-parallel ranks"),
        (64, "training.global_batch=64 cannot be shared out to 32 data-parallel ranks in whole microbatches of 4 samples"),
    ],
)
def test_what_has_no_layout(ranks: int, said: str) -> None:
    with pytest.raises(UserError) as error:
        overrides(ranks)
    assert str(error.value).startswith(said)
