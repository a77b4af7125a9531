"""Four ways to read the same clips into batches, each with two processes: our loader, what one would write with PyAV over torch's
DataLoader and over webdataset, and the bare decoding."""

import io
import math
import multiprocessing
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.clip_files import CAPTION, Material
from megatron_mplug2.config.load import load_config
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.data.decode import decode_video
from megatron_mplug2.data.draws import Purpose, SampleDraws
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.samples import draw_view
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.tokenizer import Tokenizer

CONFIG = Path(__file__).parents[1] / "configs" / "pretrain" / "demo.yaml"
WORKERS, BATCH, EPOCHS = 2, 8, 12
FRAMES, RESOLUTION = 8, 224
AHEAD = 4
"""Batches that are prepared: for the peers two a worker, torch's default."""

Read = Callable[[], int]
"""Reads all clips EPOCHS times; returns how many it gave."""


def run_config(material: Material, vocab: Path) -> RunConfig:
    """What our loader reads with, and what all of them augment by."""
    steps = EPOCHS * len(material.files) // BATCH
    folders = ",".join(map(str, material.folders))
    overrides = [
        f"data.vocab={vocab}",
        f"data.train.video_text=[{folders}]",
        f"schedule=[{{steps: {steps}, video_text: 1, frames: {FRAMES}, resolution: {RESOLUTION}}}]",
        f"training.global_batch={BATCH}",
        f"training.microbatch={BATCH}",
        "objectives.lm.instructions=1",
        "objectives.vlm.group=2",
        "optimizer.warmup_steps=0",
        "layout.data=1",
        "data.decoder=pyav",
        f"data.workers={WORKERS}",
        f"data.prefetch={AHEAD}",
    ]
    return load_config(CONFIG, overrides)


def ours(config: RunConfig) -> Read:
    def read() -> int:
        loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True)
        clips = 0
        for _, batches in loader:
            for batch in batches:
                assert isinstance(batch, PairBatch) and batch.media is not None
                clips += _counted(batch.media)
        return clips

    return read


def bare_decoding(config: RunConfig, material: Material) -> Read:
    """The limit: our decoder's calls for the samples of our loader, from memory, the tensors dropped where they are."""

    manifest = Manifest.load_all(material.folders)
    media = [manifest.media(index) for index in range(len(manifest))]

    def read() -> int:
        def work(start: int) -> None:
            torch.set_num_threads(1)
            for epoch in range(EPOCHS):
                for index in range(start, len(media), WORKERS):
                    draws = SampleDraws(seed=config.training.seed, task=Task.VIDEO_TEXT, epoch=epoch, index=index)
                    shares = draws.uniforms(FRAMES, Purpose.FRAMES).tolist()
                    decode_video(media[index], FRAMES, RESOLUTION, draw_view(draws, config.data), shares)

        processes = [multiprocessing.get_context("fork").Process(target=work, args=(start,)) for start in range(WORKERS)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        return EPOCHS * len(media)

    return read


def torch_loader(config: RunConfig, material: Material) -> Read:
    def read() -> int:
        dataset = _ClipFiles(material.files, config)
        loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
        return sum(_counted(media) for _ in range(EPOCHS) for media, _ in loader)

    return read


def webdataset_pipeline(config: RunConfig, material: Material) -> Read:
    def read() -> int:
        dataset = webdataset.WebDataset(material.tars, shardshuffle=len(material.tars)).shuffle(BATCH).map(_FromTar(config)).batched(BATCH)
        loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS, persistent_workers=True)
        return sum(_counted(media) for _ in range(EPOCHS) for media, _ in loader)

    return read


def _counted(media: torch.Tensor) -> int:
    assert media.shape[1:] == (3, FRAMES, RESOLUTION, RESOLUTION) and media.dtype == torch.uint8
    return len(media)


class _ClipFiles(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, files: tuple[Path, ...], config: RunConfig) -> None:
        self._files = files
        self._texts = _Texts(config)
        self._scale = config.data.crop_scale

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _read_clip(str(self._files[number]), self._scale), self._texts(CAPTION)


class _FromTar:
    def __init__(self, config: RunConfig) -> None:
        self._texts = _Texts(config)
        self._scale = config.data.crop_scale

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return _read_clip(io.BytesIO(sample["mp4"]), self._scale), self._texts(CAPTION)


class _Texts:
    """A caption, an instruction and a target, as our loader makes them."""

    def __init__(self, config: RunConfig) -> None:
        self._data, self._instruction = config.data, config.objectives.lm.video_instruction
        self._tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)

    def __call__(self, caption: str) -> torch.Tensor:
        rows = [self._tokenizer.encode(text, self._data.text_length) for text in (caption, self._instruction)]
        return torch.from_numpy(np.concatenate([*rows, self._tokenizer.target(caption, self._data.target_length)]))


def _read_clip(file: Any, scale: tuple[float, float]) -> torch.Tensor:
    """[3, T, R, R] uint8 of a random frame from each of T segments, and one random crop: PyAV with one thread a worker, which goes to the
    nearest key frame where that is ahead, and converts only the frames that are kept."""
    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        assert stream.time_base is not None and stream.average_rate is not None
        step = int(1 / (stream.average_rate * stream.time_base))
        segment = stream.frames / FRAMES
        wanted = [int(segment * (number + random.random())) * step for number in range(FRAMES)]
        pictures = [frame.to_ndarray(format="rgb24", threads=1) for frame in _at(container, stream, wanted)]
    side = math.sqrt(random.uniform(*scale))
    height, width = pictures[0].shape[:2]
    left, upper = random.random() * (1 - side) * width, random.random() * (1 - side) * height
    box = (left, upper, left + side * width, upper + side * height)
    squares = [Image.fromarray(one).resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=box) for one in pictures]
    return torch.from_numpy(np.stack([np.asarray(square) for square in squares])).permute(3, 0, 1, 2).contiguous()


def _at(container: Any, stream: Any, times: list[int]) -> Iterator[Any]:
    """The frames at ascending times."""
    keys = [entry.timestamp for entry in stream.index_entries if entry.is_keyframe]
    frames, reached = container.decode(stream), -1
    for time in times:
        key = max((key for key in keys if key <= time), default=0)
        if key > reached:
            container.seek(key, stream=stream)
            frames = container.decode(stream)
        for frame in frames:
            reached = frame.pts
            if reached >= time:
                yield frame
                break
