"""Real photographs and clips in COCO's and MSR-VTT's layouts: sharded, and trained on until the model finds its own training samples."""

import json
from pathlib import Path

import pytest

from data_tools.tokenizer import train_tokenizer
from data_tools.verify import verify
from launchers.local import launch
from megatron_mplug2.config.load import load_config
from megatron_mplug2.evaluation.evaluate import evaluate
from megatron_mplug2.training.loop import pretrain
from tests.data_tools.sharding import sharded
from tests.shared import SHARED, needs_shared
from tests.training.corpus import DEMO

STEPS = 600


@needs_shared
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_tiny_model_retrieves_the_clips_and_pictures_that_it_was_trained_on(tmp_path: Path) -> None:
    assert SHARED is not None
    real, shards = SHARED / "corpora" / "real", tmp_path / "shards"
    sharded("coco", real / "image" / "captions.json", real / "image" / "images", shards / "coco")
    sharded("msrvtt", real / "video" / "videodatainfo.json", real / "video" / "videos", shards / "msrvtt")
    assert verify(shards) == []
    train_tokenizer([shards], tmp_path / "vocab.txt", size=2000)
    images, clips = shards / "coco" / "train" / "image_text", shards / "msrvtt" / "train" / "video_text"
    config = load_config(
        DEMO,
        [
            f"run_dir={tmp_path / 'run'}",
            "model.vision.patch=16",
            "model.vision.resolution=64",
            "model.text.vocab_size=2048",
            f"data.vocab={tmp_path / 'vocab.txt'}",
            *(f"data.{split}.image_text=[{images}]" for split in ("train", "test")),
            *(f"data.{split}.video_text=[{clips}]" for split in ("train", "test")),
            f"schedule=[{{steps: {STEPS}, image_text: 0.75, video_text: 0.25, frames: 4, resolution: 64}}]",
            "data.text_length=32",  # real captions are longer than the demo's
            "data.target_length=32",
            "training.global_batch=16",
            "training.microbatch=8",
            "training.validate_every=0",
            "objectives.vlm.group=8",
            "objectives.lm.instructions=1",
            "optimizer.warmup_steps=20",
        ],
    )
    launch(config, pretrain)
    launch(config, evaluate)
    retrieval = json.loads((config.run_dir / "evaluation.json").read_text())["retrieval"]
    for kind, gallery in (("image", 44), ("video", 9)):
        for direction in ("t2v", "v2t"):
            assert retrieval[kind][direction]["gallery"] == gallery
            assert retrieval[kind][direction]["r1"] == 100.0, f"{kind} {direction}"
