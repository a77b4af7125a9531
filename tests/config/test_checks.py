"""Every cross-field check, by the mistake that it finds."""

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from megatron_mplug2.config.checks import chain_units, padded_vocab
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.errors import UserError

DEMO = Path(__file__).parents[2] / "configs/pretrain/demo.yaml"

CASES = [
    (
        ["data.train.text=[{folder: a, weight: 1}, b]"],
        "data.train.text.1 has no weight, but other datasets of the stream have one: give weights to all or to none",
    ),
    (
        ["data.train.text=[{folder: a, weight: 2, repeat: 2}]"],
        "data.train.text.0 has weight=2.0 and repeat=2: the weight alone says how often it comes",
    ),
    (
        ["data.validation.text=[{folder: a, repeat: 2}]"],
        "data.validation.text has a weight or a repeat: an evaluation takes each sample once, so only data.train may have them",
    ),
    (
        ["data.train.text=['https://host/a']"],
        "data.train.text.0=https://host/a is remote and needs data.cache.folder, a folder on a disk of the node",
    ),
    (["data.test.text=['gs://a/b']"], "data.test.text.0=gs://a/b is neither a path nor a URL of http, https, s3"),
    (["model.vision.heads=3"], "model.vision.heads=3 does not divide model.vision.width=128"),
    (["model.text.heads=3"], "model.text.heads=3 does not divide model.text.hidden=128"),
    (["model.vision.resolution=36"], "model.vision.patch=8 does not divide model.vision.resolution=36"),
    (["model.vision.width=125", "model.vision.heads=5"], "model.vision.width=125 is odd: the temporal modules' bottleneck is half of it"),
    (["model.text.universal_layers=4"], "model.text.universal_layers=4 must be less than model.text.layers=4, which counts them"),
    (["layout.tensor=3"], "layout.tensor=3 does not divide model.vision.heads=4"),
    (["layout.tensor=3"], "layout.tensor=3 does not divide model.vision.ffn=512"),
    (["layout.tensor=3"], "layout.tensor=3 does not divide 64, half of model.vision.width=128"),
    (["layout.tensor=3"], "layout.tensor=3 does not divide model.text.heads=4"),
    (["layout.tensor=3"], "layout.tensor=3 does not divide model.text.ffn=512"),
    (["layout.tensor=3"], "layout.tensor=3 does not divide 1024, which is model.text.vocab_size=1024 padded"),
    (["layout.pipeline=99"], "layout.pipeline=99 is more than the 20 units of the model's chain"),
    (
        ["layout.pipeline=3", "layout.stage_starts=[4]"],
        "layout.stage_starts=[4] must name 2 stages: layout.pipeline=3 without stage 0",
    ),
    (["deepspeed.zero_stage=3"], "deepspeed.zero_stage=3 needs training.engine=deepspeed"),
    (
        ["training.engine=deepspeed", "layout.pipeline=2"],
        "layout.pipeline=2 needs training.engine=megatron: DeepSpeed trains one stage here",
    ),
    (
        ["training.engine=deepspeed", "layout.tensor=2", "layout.sequence_parallel=true"],
        "layout.sequence_parallel=true needs training.engine=megatron: it is Megatron-Core that does it",
    ),
    (
        ["training.engine=deepspeed", "training.precision=bf16", "deepspeed.zero_stage=1"],
        "training.precision=bf16 needs deepspeed.zero_stage=2 or 3: at stage 1 DeepSpeed takes another optimizer, of another form",
    ),
    (
        ["training.engine=deepspeed", "objectives.vlc.negatives=queue", "objectives.vlc.queue.size=4096"],
        "objectives.vlc.negatives=queue needs training.engine=megatron: momentum encoders follow its weights",
    ),
    (["layout.pipeline=3", "layout.stage_starts=[7,7]"], "layout.stage_starts=[7, 7] must rise"),
    (
        ["layout.pipeline=2", "layout.stage_starts=[0]"],
        "layout.stage_starts=[0] must lie within 1..19: the model's chain has 20 units",
    ),
    (
        ["layout.pipeline=2", "layout.stage_starts=[20]"],
        "layout.stage_starts=[20] must lie within 1..19: the model's chain has 20 units",
    ),
    (["layout.sequence_parallel=true"], "layout.sequence_parallel=true needs layout.tensor > 1"),
    (
        ["layout.overlap_param_gather=true", "layout.overlap_grad_reduce=true", "layout.zero1=false"],
        "layout.overlap_param_gather=true needs layout.zero1=true and layout.overlap_grad_reduce=true",
    ),
    (
        ["layout.overlap_param_gather=true"],
        "layout.overlap_param_gather=true needs layout.zero1=true and layout.overlap_grad_reduce=true",
    ),
    (
        ["training.global_batch=48"],
        "training.global_batch=48 is not a multiple of training.microbatch=16 x layout.data=2 = 32",
    ),
    (
        ["training.microbatch=8"],
        (
            "training.microbatch=8 is not a multiple of objectives.vlm.group=16: "
            "the group that negatives are drawn from lies inside a microbatch"
        ),
    ),
    (["data.document_length=129"], "data.document_length=129 is more than model.text.positions=128"),
    (["data.text_length=129"], "data.text_length=129 is more than model.text.positions=128"),
    (["data.target_length=129"], "data.target_length=129 is more than model.text.positions=128"),
    (["data.crop_scale=[0.9, 0.5]"], "data.crop_scale=[0.9, 0.5] must be a rising pair within 0..1"),
    (
        ["objectives.mlm.random_share=0.3"],
        "objectives.mlm.mask_share=0.8 and objectives.mlm.random_share=0.3 are more than 1 together",
    ),
    (
        ["objectives.vlc.temperature=0.6"],
        "objectives.vlc.temperature=0.6 is not between objectives.vlc.min_temperature=0.001 and objectives.vlc.max_temperature=0.5",
    ),
    (
        ["objectives.vlc.negatives=queue", "objectives.vlc.queue.size=100"],
        "objectives.vlc.queue.size=100 is not a multiple of training.global_batch=32",
    ),
    (
        ["training.frozen=[vision, temporal, text, universal, fusion, decoder, heads]"],
        "training.frozen names every module: leave one out, to be trained",
    ),
    (
        ["training.frozen=[text, universal, decoder, heads]"],
        "training.frozen=['text', 'universal', 'decoder', 'heads'] leaves schedule.0.text nothing to train: leave one out",
    ),
    (["schedule.1.resolution=36"], "model.vision.patch=8 does not divide schedule.1.resolution=36"),
    (
        ["schedule.0.text=0", "schedule.0.image_text=0"],
        "schedule.0 has no task: one of its text, image_text and video_text must be positive",
    ),
    (["data.train.video_text=[]"], "data.train.video_text names no folder of shards, and schedule.1.video_text needs one"),
    (["data.validation.text=[]"], "data.validation.text names no folder of shards, and schedule.0.text needs one"),
    (
        ["schedule.0.steps=5", "schedule.1.steps=5", "optimizer.warmup_steps=10"],
        "optimizer.warmup_steps=10 must be less than the 10 steps of the schedule",
    ),
    (["optimizer.min_lr=0.1"], "optimizer.min_lr=0.1 is more than optimizer.lr=0.0005"),
    (
        ["objectives.mlm.weight=0", "objectives.lm.weight=0"],
        "schedule.0.text has no objective with a weight: give objectives.*.weight one, or the task no share",
    ),
    (["downstream.family=video_qa"], "schedule.1.text=0.1: downstream.family=video_qa takes video_text alone"),
    (["downstream.family=video_qa"], "schedule.0.video_text=0: downstream.family=video_qa needs video_text"),
    (
        ["downstream.family=video_qa"],
        "objectives.vlc.weight=1: downstream.family=video_qa does not train it; set it to 0",
    ),
    (
        ["downstream.family=image_retrieval", "objectives.vlc.weight=0"],
        "objectives.vlc.weight=0: downstream.family=image_retrieval needs it",
    ),
    (
        ["downstream={family: video_qa, best: {figure: a}}", "training.validate_every=0"],
        "downstream.best needs training.validate_every: a figure of validation says which checkpoint is best",
    ),
]


@pytest.mark.parametrize(("overrides", "said"), CASES)
def test_what_does_not_fit_is_named(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEMO, overrides)
    assert said in str(caught.value).removeprefix(f"{DEMO}: ").split("\n  ")


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.microbatch=8", "objectives.vlm.weight=0"],
        ["training.microbatch=8", "schedule=[{steps: 100, text: 1}]"],
        ["data.validation={text: [], image_text: [], video_text: []}", "training.validate_every=0"],
        ["objectives.vlc.queue.size=100"],
        ["objectives.vlc.negatives=queue", "objectives.vlc.queue.size=96"],
        ["layout.pipeline=20"],
        ["layout.pipeline=3", "layout.stage_starts=[1,19]"],
        ["layout.tensor=4", "layout.sequence_parallel=true", "layout.overlap_param_gather=true", "layout.overlap_grad_reduce=true"],
    ],
)
def test_what_fits_is_let_through(overrides: list[str]) -> None:
    tree = load_config(DEMO, overrides).model_dump(mode="json")
    for override in overrides:
        key, _, value = override.partition("=")
        assert_holds(reduce(getitem, key.split("."), tree), yaml.safe_load(value))


def assert_holds(found: Any, asked: Any) -> None:
    """All that was asked for; settings that were not said have their defaults."""
    if isinstance(asked, dict):
        for key, value in asked.items():
            assert_holds(found[key], value)
    elif isinstance(asked, list):
        for one, value in zip(found, asked, strict=True):
            assert_holds(one, value)
    else:
        assert found == asked


def test_a_config_made_in_python_is_checked_too() -> None:
    tree = load_config(DEMO).model_dump()
    tree["layout"]["tensor"] = 8
    with pytest.raises(ValidationError, match=r"layout.tensor=8 does not divide model.vision.heads=4"):
        RunConfig.model_validate(tree)


@pytest.mark.parametrize("name", ["demo", "base", "large", "huge"])
def test_the_chain_is_as_long_as_the_checks_say(name: str) -> None:
    from megatron_mplug2.models.mplug2 import chain  # imports Megatron-Core, which takes seconds

    model = load_config(DEMO.with_name(f"{name}.yaml")).model
    assert chain_units(model) == len(chain(model))


@pytest.mark.parametrize(("vocab_size", "rows"), [(1, 1024), (1024, 1024), (1025, 2048), (30522, 30720)])
def test_padded_vocab(vocab_size: int, rows: int) -> None:
    assert padded_vocab(vocab_size) == rows
