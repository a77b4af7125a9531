"""The loader with either decoder: the same samples, with the same ones replaced, and the same pixels for any number of workers."""

from pathlib import Path

import pytest
import torch

from megatron_mplug2.config.data import DecoderChoice
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.data.loader import Loader
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.split import Split
from tests.data.clips import Drawn
from tests.data.corpus import clip, make_config, pair, picture, write_corpus, write_stream

SCHEDULE = [{"steps": 4, "image_text": 1.0, "resolution": 16}, {"steps": 4, "video_text": 1.0, "frames": 3, "resolution": 24}]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "rest", texts=1, images=1, videos=1)
    images = [pair(number, picture(number)[: 200 if number in (3, 7) else None]) for number in range(20)]
    mjpeg = [Drawn(encoder="mjpeg", form="mov", pix_fmt="yuvj420p", frames=frames).encoded() for frames in (6, 7, 8, 9)]  # for DALI itself
    films = [*(clip(number) for number in range(10)), mjpeg[0][:-900], *mjpeg[1:]]
    write_stream(folder / "image_text", MediaKind.IMAGE, images)
    write_stream(folder / "video_text", MediaKind.VIDEO, [pair(number, film) for number, film in enumerate(films)])
    (folder / "vocab.txt").write_bytes((folder / "rest/vocab.txt").read_bytes())
    return folder


def loaded(corpus: Path, run_dir: Path, decoder: DecoderChoice, workers: int) -> list[PairBatch]:
    config = make_config(
        corpus,
        run_dir,
        schedule=SCHEDULE,
        data__decoder=decoder,
        data__workers=workers,
        data__flip=True,
        data__randaugment={"operations": 2, "magnitude": 7},
        training__seed=11,
    )
    loader = Loader(config, Split.TRAIN, data_rank=0, data_size=1, needs_media=True)
    return [batch for _, batches in loader for batch in batches if isinstance(batch, PairBatch)]


def media_of(batch: PairBatch) -> torch.Tensor:
    assert batch.media is not None
    return batch.media


def test_workers_and_decoders(corpus: Path, tmp_path: Path) -> None:
    ours = loaded(corpus, tmp_path / "pyav", DecoderChoice.PYAV, 0)
    theirs = loaded(corpus, tmp_path / "dali", DecoderChoice.DALI, 0)
    forked = loaded(corpus, tmp_path / "forked", DecoderChoice.DALI, 2)
    assert len(ours) == len(theirs) == len(forked) == 32
    for one, other, again in zip(ours, theirs, forked, strict=True):
        assert torch.equal(one.sample_ids, other.sample_ids) and torch.equal(one.captions, other.captions)
        assert torch.equal(other.sample_ids, again.sample_ids) and torch.equal(media_of(other), media_of(again))
        assert (media_of(one).float() - media_of(other).float()).abs().mean() < 7  # of 255
    seen = {int(index) for batch in ours[:16] for index in batch.sample_ids}
    assert not seen & {3, 7} and len(seen) > 12
