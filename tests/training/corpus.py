"""A small demo corpus in shards, made once a test session, and a config that trains on it for a few steps."""

from collections.abc import Sequence
from pathlib import Path

from data_tools.demo.make import Sizes, make_demo
from data_tools.splits import Split
from data_tools.tokenizer import train_tokenizer
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schema import RunConfig
from tests.data_tools.sharding import sharded

DEMO = Path(__file__).parents[2] / "configs" / "pretrain" / "demo.yaml"
SIZES = {
    Split.TRAIN: Sizes(motions=30, orders=6, pictures=40, documents=40),
    Split.VALIDATION: Sizes(motions=14, orders=2, pictures=16, documents=16),
    Split.TEST: Sizes(motions=14, orders=2, pictures=16, documents=16),
}


def make_corpus(folder: Path) -> Path:
    """Media, shards and vocabulary in a folder; returns it."""
    make_demo(folder / "media", seed=0, sizes=SIZES)
    sharded("demo", folder / "media", folder / "media", folder / "shards")
    train_tokenizer([folder / "shards"], folder / "vocab.txt", size=300)
    return folder


def demo_config(corpus: Path, run_dir: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The demo's config on this corpus: 12 steps of all tasks, every line logged, dropout on."""
    streams = [
        f"data.{split}.{stream}=[{corpus}/shards/{split}/{stream}]"
        for split in ("train", "validation")
        for stream in ("text", "image_text", "video_text")
    ]
    steps = "schedule=[{steps: 12, text: 1, image_text: 1, video_text: 1, frames: 4, resolution: 32}]"
    small = ["training.global_batch=8", "training.microbatch=2", "objectives.vlm.group=2", "optimizer.warmup_steps=2"]
    seldom = ["training.log_every=1", "training.checkpoint_every=5", "training.validate_every=0"]
    noise = ["model.text.dropout=0.1", "model.text.attention_dropout=0.1", "model.vision.drop_path=0.1"]
    place = [f"data.vocab={corpus}/vocab.txt", f"run_dir={run_dir}"]
    return load_config(DEMO, [*streams, steps, *small, *seldom, *noise, *place, *overrides])
