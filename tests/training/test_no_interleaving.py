"""Interleaved pipeline stages cannot be asked for, by any key.

Megatron-Core 0.16 gets them wrong without a word: its interleaved schedule takes one length for all boundaries, and with batched messages
its losses are off.
"""

from pathlib import Path

import pytest
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import schedules

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.errors import UserError
from megatron_mplug2.training.engine import make_engine
from tests.config.test_checks import DEMO
from tests.ranks import run_ranks
from tests.training import cases, record

PACKAGE = Path(__file__).parents[2] / "megatron_mplug2"
WAYS_IN = ("virtual_pipeline_model_parallel_size", "pipelining_with_interleaving", "get_forward_backward_func", "overlap_p2p_comm")
"""What Megatron-Core's interleaving is asked for with."""


@pytest.mark.parametrize("key", ["layout.virtual_stages", "layout.virtual_pipeline", "layout.interleaved", "training.interleaved"])
def test_no_key_is_known(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: unknown key"):
        load_config(DEMO, ["layout.pipeline=2", f"{key}=2"])


def test_a_rank_has_one_stage() -> None:
    with pytest.raises(UserError, match=r"layout\.stage_starts=\[4, 8, 12\] must name 1 stages"):
        load_config(DEMO, ["layout.pipeline=2", "layout.stage_starts=[4, 8, 12]"])


def test_no_file_asks_for_it() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if any(way in file.read_text() for way in WAYS_IN)]
    assert files == []


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the interleaved schedule ran")


def train() -> tuple[object, ...]:
    schedules.forward_backward_pipelining_with_interleaving = refuse
    engine = make_engine(cases.config(LayoutConfig(pipeline=2), microbatch=cases.GLOBAL_BATCH // 2))
    record.train(engine, tuple(Task))
    cores = (engine.pipeline_stage.config, engine.context.vision, engine.context.text)
    return parallel_state.get_virtual_pipeline_model_parallel_world_size(), *(core.virtual_pipeline_model_parallel_size for core in cores)


def test_megatron_core_is_not_told_of_virtual_stages() -> None:
    assert run_ranks(2, train) == [(None,) * 4] * 2
