"""A corpus of pictures, some of them bad, and loaders of it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import Manifest, MediaKind
from megatron_mplug2.data.sampler import Sampler
from megatron_mplug2.data.split import Split
from tests.data.corpus import make_config, pair, picture, write_corpus, write_stream

BAD = (3, 11, 12)
SCHEDULE = [{"steps": 10, "image_text": 1.0, "resolution": 16}]


def make_corpus(folder: Path, bad: tuple[int, ...] = BAD, size: int = 40) -> Path:
    write_corpus(folder, texts=1, images=1, videos=1)
    shutil.rmtree(folder / "image_text")
    samples = [pair(number, b"damaged %d" % number if number in bad else picture(number)) for number in range(size)]
    write_stream(folder / "image_text", MediaKind.IMAGE, samples)
    return folder


def config_of(corpus: Path, run_dir: Path, **changes: Any) -> RunConfig:
    return make_config(corpus, run_dir, **{"schedule": SCHEDULE, **changes})


def make_loader(config: RunConfig, data_rank: int = 0, data_size: int = 1, **arguments: Any) -> Loader:
    return Loader(config, Split.TRAIN, data_rank=data_rank, data_size=data_size, **{"needs_media": True, **arguments})


def ids_of(loader: Loader) -> list[list[int]]:
    """Sample ids of each step."""
    return [[int(one) for batch in batches for one in batch.sample_ids] for _, batches in loader]


def planned_ids(size: int = 40) -> list[list[int]]:
    drawn = Sampler(seed=5, task=Task.IMAGE_TEXT, size=size).at(np.arange(80)).indices
    return drawn.reshape(10, 8).tolist()


def storage_fault(corpus: Path, index: int) -> int:
    """Spoils a picture's bytes on disk."""
    manifest = Manifest.load(corpus / "image_text")
    data = manifest.media(index)
    tar = next((corpus / "image_text").glob("*.tar"))
    spoilt = tar.read_bytes().replace(data, bytes(len(data)))
    with tar.open("r+b") as file:  # in place: loaders hold it open
        file.write(spoilt)
    return index
