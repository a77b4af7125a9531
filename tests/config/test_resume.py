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
        "data.sample_timeout_s=600",
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


def test_the_first_key_that_may_not_change_is_named_with_both_values() -> None:
    changes = ["optimizer.lr=1e-3", "training.seed=1", "layout.data=1", "schedule=[{steps: 100, text: 1}]"]
    with pytest.raises(UserError) as caught:
        check_resume(load_config(DEMO), load_config(DEMO, changes))
    steps = load_config(DEMO).schedule[0].steps
    said, values = str(caught.value), f"{steps} in the checkpoint, 100 now"
    assert said.startswith(f"cannot resume in runs/demo: schedule.0.steps: {values}; it may not change on a resume")
    assert said.endswith(", training.seed, optimizer.lr)")
    assert "schedule.1.steps" in said and "layout" not in said and "\n" not in said


def test_a_key_that_only_one_has() -> None:
    before = load_config(DEMO)
    with pytest.raises(UserError, match=r"schedule\.1\.steps: \d+ in the checkpoint, absent now"):
        check_resume(before, before.model_copy(update={"schedule": before.schedule[:1]}))


@pytest.mark.parametrize("order", [("global", "queue"), ("queue", "global")])
def test_a_run_keeps_its_kind_of_negatives(order: tuple[str, str]) -> None:
    before, now = (load_config(DEMO, [f"objectives.vlc.negatives={negatives}"]) for negatives in order)
    with pytest.raises(UserError, match=rf"objectives\.vlc\.negatives: {order[0]} in the checkpoint, {order[1]} now; it may not change"):
        check_resume(before, now)


def test_a_run_keeps_its_frozen_modules() -> None:
    """A run that is to train them begins with `initialise_from`."""
    before, now = load_config(DEMO, ["training.frozen=[vision]"]), load_config(DEMO)
    with pytest.raises(UserError, match=r"training\.frozen: \['vision'\] in the checkpoint, \[\] now; it may not change"):
        check_resume(before, now)


def test_the_order_in_which_frozen_modules_are_named_is_nothing_that_changes() -> None:
    before, now = (load_config(DEMO, [f"training.frozen=[{modules}]"]) for modules in ("text, vision, text", "vision, text"))
    check_resume(before, now)
    assert before.training.frozen == now.training.frozen


def test_every_pattern_names_a_key() -> None:
    keys = [dotted(place) for place in places(RunConfig)]
    assert [pattern for pattern in CHANGEABLE if not any(fnmatchcase(key, pattern) for key in keys)] == []


@pytest.mark.parametrize(
    "place", [place for place in places(RunConfig) if place[0] in ("model", "objectives", "optimizer", "schedule")], ids=dotted
)
def test_nothing_of_the_method_may_change(place: Place) -> None:
    changeable = any(fnmatchcase(dotted(place), pattern) for pattern in CHANGEABLE)
    assert changeable == (dotted(place) == "objectives.vlc.chunk")
