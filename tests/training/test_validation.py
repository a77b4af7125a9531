"""Validation during training: it says the same on any layout, and leaves the run as it was."""

import json
from pathlib import Path

import pytest

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.split import Split
from tests.training.corpus import demo_config
from tests.training.runs import run_to_the_end

OFTEN = ("training.validate_every=3", "training.validation_batches=2", "schedule.0.steps=6", "training.checkpoint_every=100")
LOSSES = {
    "text/loss/mlm",
    "text/loss/lm",
    *(f"{task}/loss/{objective}" for task in ("image_text", "video_text") for objective in ("vlc", "vlm", "lm")),
}
RETRIEVAL = {f"{task}/retrieval/{figure}" for task in ("image_text", "video_text") for figure in ("t2v_r1", "v2t_r1")}


def lines(config: RunConfig, kind: str) -> list[dict[str, float]]:
    """The lines of a kind in metrics.jsonl, without what is time."""
    found = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_s")} for line in found if line["kind"] == kind]


def test_validation_leaves_training_as_it_was(corpus: Path, tmp_path: Path) -> None:
    """With dropout, and with weights whose gathering overlaps the next forward pass."""
    overlap = ("layout.overlap_grad_reduce=true", "layout.overlap_param_gather=true")
    quiet = demo_config(corpus, tmp_path / "quiet", (*OFTEN, *overlap, "training.validate_every=0"))
    validated = demo_config(corpus, tmp_path / "validated", (*OFTEN, *overlap))
    run_to_the_end(quiet)
    run_to_the_end(validated)
    assert lines(quiet, "train") == lines(validated, "train")
    assert lines(quiet, "validation") == []
    assert [line["step"] for line in lines(validated, "validation")] == [2, 5]
    assert all(line.keys() - {"kind", "step"} == LOSSES | RETRIEVAL for line in lines(validated, "validation"))


def spoil(folder: Path) -> str:
    """Damages the first sample's picture on disk; its key."""
    manifest = Manifest.load(folder)
    data = manifest.media(0)
    for tar in folder.glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(data, bytes(len(data))))
    return manifest.entry(0).key


@pytest.mark.long
def test_validation_says_the_same_on_a_pipeline(corpus: Path, tmp_path: Path) -> None:
    """Also where a sample is bad, which is written down."""
    key = spoil(corpus / "shards/validation/image_text")
    still = ("model.text.dropout=0", "model.text.attention_dropout=0", "model.vision.drop_path=0")
    one = demo_config(corpus, tmp_path / "one", (*OFTEN, *still, "layout.data=1"))
    pipeline = demo_config(corpus, tmp_path / "pipeline", (*OFTEN, *still, "layout.data=1", "layout.pipeline=2", "layout.tensor=2"))
    run_to_the_end(one)
    run_to_the_end(pipeline)
    for whole, cut in zip(lines(one, "validation"), lines(pipeline, "validation"), strict=True):
        assert cut.keys() - {"kind", "step"} == LOSSES
        assert {name: cut[name] for name in LOSSES} == pytest.approx({name: whole[name] for name in LOSSES}, rel=1e-4)
    for config in (one, pipeline):
        assert {(event.split, event.key) for event in Ledger(config.run_dir).events} == {(Split.VALIDATION, key)}
