"""What is advised where a layout does not fit: it fits, and is what a person would try."""

import json

import pytest

from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError
from megatron_mplug2.models.memory_fit import GB, check_memory, what_fits
from megatron_mplug2.models.partition import make_partition
from megatron_mplug2.models.stage_memory import stage_memory
from tests.models.sizes import CONFIGS


def config(*overrides: str) -> RunConfig:
    return load_config(CONFIGS.parent / "pretrain/base.yaml", overrides)


def most_gb(run: RunConfig) -> float:
    return max(stage.total for stage in stage_memory(run, make_partition(run))) / GB


@pytest.mark.parametrize("share", [0.9, 0.4, 0.1, 0.04])
def test_what_is_advised_fits(share: float) -> None:
    as_it_is = ("layout.pipeline=2", "layout.data=4", "layout.stage_starts=[20]", "training.recompute=none")
    run = config(*as_it_is)
    limit = share * most_gb(run)
    fit = what_fits(run, limit)
    assert fit is not None
    followed = config(*as_it_is, *(f"{key}={json.dumps(value)}" for key, value in fit.changes.items()))
    assert most_gb(followed) == pytest.approx(fit.gigabytes) and fit.gigabytes <= limit
    assert followed.layout.world_size == fit.ranks


def test_recompute_is_tried_first_then_layouts_of_as_many_ranks_then_more() -> None:
    run, again = (config("layout.data=4", f"training.recompute={kind}") for kind in ("none", "full"))
    recompute = what_fits(run, most_gb(again) + 1)
    assert recompute is not None and recompute.changes == {"training.recompute": "full"}
    shared = what_fits(again, 0.8 * most_gb(again))
    assert shared is not None and shared.ranks == 4 and "layout.tensor" in shared.changes
    more = what_fits(again, 0.08 * most_gb(again))
    assert more is not None and more.ranks > 4


def test_the_line_names_the_rank_and_its_stage() -> None:
    run = config("layout.tensor=2", "layout.pipeline=2", "layout.data=2", "layout.stage_starts=[2]", "training.recompute=none")
    check_memory(run, 1e6, "a device")
    with pytest.raises(UserError, match=r"^rank 4 \(stage 1 of 2\) needs about .* and a device has 20: .* would fit.*, with [0-9.]+ GB$"):
        check_memory(run, 20, "a device")
    with pytest.raises(UserError, match=r"nothing near this layout would fit, take a smaller model or larger devices$"):
        check_memory(run, 0.01, "a device")
