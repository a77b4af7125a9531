"""Which samples a run reads, and what it makes of them."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from megatron_mplug2.config.node import Frozen
from megatron_mplug2.config.schedule import Task


class DatasetConfig(Frozen):
    """A folder of shards, and how often its samples come. The folder alone may stand for a dataset that is seen once an epoch."""

    folder: str = Field(min_length=1)
    """A path, or a URL of http(s) or s3."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the stream's samples, relative to the weights of its other datasets, whatever their sizes."""
    repeat: int = Field(default=1, gt=0)
    """How often each sample comes in an epoch of the stream, where there are no weights."""

    @property
    def scheme(self) -> str | None:
        """Of a URL; None for a path."""
        scheme, separator, _ = self.folder.partition("://")
        return scheme if separator else None

    @property
    def plain(self) -> bool:
        return self.weight is None and self.repeat == 1

    @model_validator(mode="before")
    @classmethod
    def _folder_alone(cls, value: Any) -> Any:
        return {"folder": str(value)} if isinstance(value, str | Path) else value

    @model_serializer(mode="wrap")
    def _as_written(self, whole: SerializerFunctionWrapHandler) -> Any:
        return self.folder if self.plain else whole(self)


class SplitConfig(Frozen):
    """Datasets of every stream; a stream without one cannot be in a mixture."""

    text: tuple[DatasetConfig, ...] = ()
    image_text: tuple[DatasetConfig, ...] = ()
    video_text: tuple[DatasetConfig, ...] = ()

    def of(self, task: Task) -> tuple[DatasetConfig, ...]:
        datasets: tuple[DatasetConfig, ...] = getattr(self, task.value)
        return datasets


class CacheConfig(Frozen):
    """Where this node keeps what it read of remote folders; its ranks share it, and so may runs."""

    folder: Path | None = None
    """On a disk of the node. Remote folders need it: their indices lie here too, beside the limit."""
    limit_gb: float = Field(default=100.0, gt=0)
    """Most gigabytes (10^9 bytes) of tars' contents that are kept; what was not read for longest goes first."""


class DecoderChoice(StrEnum):
    """What decodes pictures and clips; the frames are the same, the pixels nearly."""

    AUTO = "auto"
    """DALI on a GPU where it is installed and `data.workers` is 0 (worker processes cannot use a GPU), else PyAV."""
    PYAV = "pyav"
    """PyAV (FFmpeg) and PIL, on the CPU."""
    DALI = "dali"
    """NVIDIA DALI: on a GPU with `data.workers` 0, else on the CPU; PyAV decodes what it cannot."""


class ResizeFilter(StrEnum):
    """How a frame becomes a square."""

    BICUBIC = "bicubic"
    """Antialiased."""
    NEAREST = "nearest"
    """torch's "nearest", not antialiased."""


class RandAugmentConfig(Frozen):
    """Operations on the pixels of a training sample, the same on all frames of a clip."""

    operations: int = Field(default=0, ge=0)
    """How many, one after the other; released: 2 [CODE]."""
    magnitude: int = Field(default=5, ge=0, le=10)  # [CODE] clips; pictures 7
    """Strength of each, of 10."""


class DataConfig(Frozen):
    vocab: Path
    """WordPiece vocabulary, one piece a line (bert-base-uncased's), or sentencepiece model; `mplug2 data tokenizer` trains both."""
    train: SplitConfig = SplitConfig()
    validation: SplitConfig = SplitConfig()
    test: SplitConfig = SplitConfig()
    cache: CacheConfig = CacheConfig()
    staging: Path | None = None
    """Folder on a disk of the node, into which the tars of the training streams are copied while the run goes on; None copies nothing."""
    text_length: int = Field(default=32, gt=1)
    """Tokens of a caption or an instruction, padded or cut."""
    document_length: int = Field(default=128, gt=1)
    """Tokens of a text sample: MLM input, and prefix of text generation."""
    target_length: int = Field(default=32, gt=1)
    """Tokens that the decoder is taught, [CLS] and [SEP] counted."""
    crop_scale: tuple[float, float] = (0.2, 1.0)  # [CODE] image pretraining
    """Area of the random crop in training, as a share of the picture; one crop for all frames of a clip."""
    flip: bool = False
    """Mirror half of the training samples. Off by default: captions name directions."""
    randaugment: RandAugmentConfig = RandAugmentConfig()
    test_transform: ResizeFilter = ResizeFilter.BICUBIC
    """How clips of validation and test are resized. The released code takes the nearest pixel: for figures to compare with its own."""
    decoder: DecoderChoice = DecoderChoice.AUTO
    workers: int = Field(default=1, ge=0)
    """Decoding processes a rank (of tensor-parallel ranks only the first decodes); more than `prefetch` are of no use. 0 decodes in a
    thread of the training process, as DALI on a GPU needs it. Nobody watches there: a file that hangs or crashes its decoder takes the run
    with it."""
    sample_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that one sample may take to read and decode before its process is replaced, and on the second time the sample."""
    prefetch: int = Field(default=4, gt=0)
    """Global batches that are prepared ahead; a rank's part of each lies in its memory, with `workers` 0 and DALI in its GPU's."""
    bad_sample_limit: float = Field(default=0.05, ge=0, le=1)
    """Share of substituted samples over which the run stops."""
