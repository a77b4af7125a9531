"""The configs of downstream tasks: each can be read, and what it is for stands in it."""

from pathlib import Path

import pytest

from megatron_mplug2.config.downstream import Family, FamilyKind
from megatron_mplug2.config.load import load_config

FOLDER = Path(__file__).parents[2] / "configs/finetune"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
DATASETS = {
    "msrvtt_qa", "msvd_qa", "tgif_frameqa", "vqav2", "msrvtt_caption", "msvd_caption", "coco_caption",
    "refcoco_grounding", "refcoco_plus_grounding", "refcocog_grounding",
    "msrvtt_retrieval", "didemo_retrieval", "lsmdc_retrieval", "coco_retrieval", "flickr30k_retrieval",
}  # fmt: skip
CLASSES = {
    "imagenet_classification", "kinetics400_classification", "ssv2_classification", "snli_ve_entailment", "nlvr2_entailment",
    *(f"{task}_classification" for task in ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")),
    *(f"demo_{family}" for family in Family if family.classifies),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_is_of_its_family(name: str) -> None:
    """Its checks hold the objectives and the schedule to the family."""
    config = load_config(FOLDER / f"{name}.yaml")
    assert config.name == name and config.downstream is not None and config.downstream.best is not None
    kind, task = config.downstream.family.kind, config.downstream.family.task
    wanted = next((kind for kind in FamilyKind if name.endswith(kind)), FamilyKind.QA)
    assert kind is wanted and config.downstream.best.figure.startswith((f"{config.downstream.family}/", f"{task}/retrieval/"))
    assert all(folders.of(task) for folders in (config.data.train, config.data.validation, config.data.test))
    speaks = kind is not FamilyKind.RETRIEVAL and name != "demo_grounding"  # whose words are none of the demo's
    assert config.initialise_from is not None and ("decoder" in config.initialise_from.modules) == speaks


def test_every_dataset_has_one() -> None:
    assert set(NAMES) == DATASETS | CLASSES | {"demo_qa", "demo_caption", "demo_grounding", "demo_image_retrieval", "demo_video_retrieval"}


def test_released_numbers() -> None:
    """Of the released scripts for video QA."""
    config = load_config(FOLDER / "msrvtt_qa.yaml")
    optimizer, (phase,) = config.optimizer, config.schedule
    assert (phase.frames, phase.resolution, config.training.global_batch) == (16, 224, 32)
    rates = (optimizer.lr, optimizer.lr * optimizer.vision.lr_scale, optimizer.min_lr)
    assert rates == pytest.approx((2e-5, 2e-6, 1e-6))
    assert (optimizer.warmup_steps, optimizer.weight_decay, optimizer.beta1, optimizer.beta2, optimizer.eps) == (
        200,
        0.02,
        0.9,
        0.999,
        1e-8,
    )
