"""Phrases and their boxes as a step gets them, from shards in RefCOCO's layout: the box is where the phrase's shape is in the pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_tools.demo.drawing import _RGB
from data_tools.demo.refcoco import REFS, make_refcoco
from data_tools.demo.scene import Color
from data_tools.tokenizer import train_tokenizer
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.coordinates import read_box
from megatron_mplug2.data.decoding.contract import FULL_VIEW, PictureRequest
from megatron_mplug2.data.decoding.pyav import decode_picture
from megatron_mplug2.data.draws import SampleDraws
from megatron_mplug2.data.grounding import asked_regions
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.quarantine import BadSample
from megatron_mplug2.data.record import Record, Region
from megatron_mplug2.data.samples import Augmentation, Picture, SampleReader
from megatron_mplug2.data.tokenizer import Tokenizer
from tests.config.test_finetune_configs import FOLDER
from tests.data_tools.sharding import sharded

RESOLUTION = 64
SIZES = {"train": 6, "val": 3, "testA": 4, "testB": 3}


def make_grounding_corpus(folder: Path, pictures: dict[str, int]) -> Path:
    """Media, shards and vocabulary in a folder; returns it."""
    make_refcoco(folder / "media", 0, pictures)
    sharded("refcoco", folder / "media" / REFS, folder / "media", folder / "shards")
    train_tokenizer([folder / "shards"], folder / "vocab.txt", size=200)
    return folder


def grounding_config(corpus: Path, run_dir: Path, overrides: list[str]) -> RunConfig:
    streams = [f"data.{split}.image_text=[{corpus}/shards/{split}/image_text]" for split in ("train", "validation", "test")]
    place = [f"data.vocab={corpus}/vocab.txt", f"run_dir={run_dir}", "initialise_from=null"]
    return load_config(FOLDER / "demo_grounding.yaml", [*streams, *place, *overrides])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grounding_corpus(tmp_path_factory.mktemp("grounding"), SIZES)


def test_boxes_follow_crops_and_flips(corpus: Path, tmp_path: Path) -> None:
    config = grounding_config(corpus, tmp_path, ["data.crop_scale=[0.8, 1.0]", "data.target_length=20"])
    tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
    reader, manifest = SampleReader(config, tokenizer), Manifest.load(corpus / "shards/train/image_text")
    picture, views = Picture(frames=1, resolution=RESOLUTION, augmentation=Augmentation.DRAWN), set()
    for index in range(len(manifest)):
        for epoch in range(12):
            draws = SampleDraws(seed=1, task=Task.IMAGE_TEXT, epoch=epoch, index=index)
            sample = reader.pair(manifest, picture, draws)
            assert isinstance(sample.media, PictureRequest) and sample.shares.tolist() == [1.0] * 4
            views.add((sample.media.transform.view.flip, sample.media.transform.view.area < 1))
            frame = decode_picture(sample.media)[:, 0].float()
            for asked, target in zip(sample.instructions, sample.targets, strict=True):
                check_box(frame, tokenizer.decode(asked), tokenizer.decode(target))
            without = reader.pair(manifest, picture, draws, needs_media=False)
            assert without.media is None and np.array_equal(without.targets, sample.targets)
    assert views == {(flip, cropped) for flip in (False, True) for cropped in (False, True)}


def check_box(frame: torch.Tensor, phrase: str, text: str) -> None:
    """What stands out from the ground in the box touches its edges, and is of the colour that the phrase names."""
    box = read_box(text, RESOLUTION)
    assert box is not None, text
    left, upper, width, height = map(int, box)
    inside = frame[:, upper : upper + height, left : left + width]
    shape = (inside.amax(0) > 170).nonzero()
    assert shape.amin(0).max() <= 2 and (torch.tensor([height, width]) - 1 - shape.amax(0)).max() <= 2
    color = inside[:, shape[:, 0], shape[:, 1]].median(1).values
    nearest = min(Color, key=lambda one: float((torch.tensor(_RGB[one]) - color).norm()))
    assert nearest in phrase.split()


def test_what_cannot_be_asked_is_a_bad_sample() -> None:
    draws = SampleDraws(seed=1, task=Task.IMAGE_TEXT, epoch=0, index=0)
    facts = MediaFacts(codec="jpeg", width=64, height=48)
    outside = Record(regions=(Region(box=(60, 0, 20, 10), phrases=("a dog",)),), attributes={})
    with pytest.raises(BadSample, match=r"'a dog': the box \[60, 0, 20, 10\] .* does not lie in the picture of 64x48"):
        asked_regions(outside, facts, FULL_VIEW, 32, 2, draws)
    with pytest.raises(BadSample, match="no phrase"):
        asked_regions(Record(regions=(Region(box=(0, 0, 2, 2), phrases=(" ",)),), attributes={}), facts, FULL_VIEW, 32, 2, draws)
