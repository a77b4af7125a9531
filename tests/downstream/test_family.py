"""What is said before ranks start: of a config without a family, and of a checkpoint that lacks what the family needs."""

from pathlib import Path

import pytest

from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.state import DataState
from megatron_mplug2.downstream.family import check_finetuning
from megatron_mplug2.errors import UserError
from megatron_mplug2.training import checkpoints
from megatron_mplug2.training.engine import make_engine
from megatron_mplug2.training.health_state import HealthState
from tests.config.test_finetune_configs import FOLDER
from tests.ranks import run_ranks
from tests.training import cases


def save(config: RunConfig, without: str) -> None:
    """A checkpoint that lacks the weights of a unit, as one imported from a released file lacks heads."""
    engine = make_engine(config)
    for weight in [weight for weight in engine.weights if weight.name.startswith(f"{without}.")]:
        engine.weights.remove(weight)
    with checkpoints.Saver(engine, note=print) as saver:
        saver.save(DataState(steps=1, datasets={}, vocabulary=""), HealthState())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    run_ranks(1, save, cases.config(LayoutConfig()).model_copy(update={"run_dir": run_dir}), "heads.contrast")
    return run_dir / "checkpoints" / "step-00000001"


def test_a_missing_module_is_named(checkpoint: Path, tmp_path: Path) -> None:
    places = [f"initialise_from.checkpoint={checkpoint}", f"run_dir={tmp_path}"]
    check_finetuning(load_config(FOLDER / "msrvtt_qa.yaml", places))  # needs no contrast
    with pytest.raises(UserError) as caught:
        check_finetuning(load_config(FOLDER / "msrvtt_retrieval.yaml", places))
    assert str(caught.value).startswith(f"{checkpoint} has no heads.contrast, which downstream.family=video_retrieval needs: begin with")
    anew = "initialise_from.modules=[vision, text, universal, fusion, heads.matching]"
    check_finetuning(load_config(FOLDER / "msrvtt_retrieval.yaml", [*places, anew]))


def test_a_figure_that_validation_does_not_tell(tmp_path: Path) -> None:
    anew = ["initialise_from=null", f"run_dir={tmp_path}"]
    check_finetuning(load_config(FOLDER / "msrvtt_retrieval.yaml", [*anew, "downstream.best.figure=video_text/retrieval/v2t_r1"]))
    with pytest.raises(UserError, match=r"figure=video_qa/exat is no figure .* there are video_text/loss/lm, video_qa/exact$"):
        check_finetuning(load_config(FOLDER / "demo_qa.yaml", [*anew, "downstream.best.figure=video_qa/exat"]))
    with pytest.raises(UserError, match=r"there are video_text/loss/lm$"):
        check_finetuning(load_config(FOLDER / "demo_qa.yaml", [*anew, "layout.pipeline=2"]))


def test_no_family_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"downstream\.family is missing"):
        check_finetuning(load_config(FOLDER.parent / "pretrain/demo.yaml"))
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}"):
        check_finetuning(load_config(FOLDER / "demo_qa.yaml", [f"initialise_from.checkpoint={tmp_path}", f"run_dir={tmp_path}/run"]))
