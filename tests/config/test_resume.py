"""Which keys may change on a resume."""

from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.names import Place, dotted, places
from megatron_mplug2.config.resume import CHANGEABLE, check_resume
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError

DEMO = Path(__file__).parents[2] / "configs/pretrain/demo.yaml"


def test_the_same_config_resumes() -> None:
    check_resume(load_config(DEMO), load_config(DEMO))


def test_another_layout_resumes() -> None:
    moved = [
        "run_dir=elsewhere",
        "data.vocab=moved/vocab.txt",
        "data.train.text=[moved]",
        "data.workers=0",
        "training.recompute=full",
        "training.checkpoint_every=7",
    ]
    layout = [
        "layout.data=1",
        "layout.tensor=2",
        "layout.pipeline=2",
        "layout.stage_starts=[6]",
        "layout.zero1=false",
        "training.microbatch=32",
    ]
    check_resume(load_config(DEMO), load_config(DEMO, [*moved, *layout]))


def test_every_key_that_may_not_change_is_named_with_both_values() -> None:
    with pytest.raises(UserError) as caught:
        check_resume(
            load_config(DEMO),
            load_config(DEMO, ["optimizer.lr=1e-3", "training.seed=1", "layout.data=1", "schedule=[{steps: 100, text: 1}]"]),
        )
    first, *lines = str(caught.value).split("\n  ")
    assert first == "cannot resume in runs/demo: keys differ that may not change on a resume"
    assert "optimizer.lr: 0.0005 in the checkpoint, 0.001 now" in lines
    assert "training.seed: 0 in the checkpoint, 1 now" in lines
    assert f"schedule.1.steps: {load_config(DEMO).schedule[1].steps} in the checkpoint, absent now" in lines
    assert f"schedule.0.text: {load_config(DEMO).schedule[0].text} in the checkpoint, 1.0 now" in lines
    assert not any(line.startswith("layout") for line in lines)


def test_every_pattern_names_a_key() -> None:
    keys = [dotted(place) for place in places(RunConfig)]
    assert [pattern for pattern in CHANGEABLE if not any(fnmatchcase(key, pattern) for key in keys)] == []


@pytest.mark.parametrize(
    "place", [place for place in places(RunConfig) if place[0] in ("model", "objectives", "optimizer", "schedule")], ids=dotted
)
def test_nothing_of_the_method_may_change(place: Place) -> None:
    changeable = any(fnmatchcase(dotted(place), pattern) for pattern in CHANGEABLE)
    assert changeable == (dotted(place) == "objectives.vlc.chunk")
