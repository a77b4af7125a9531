"""Random numbers of the loader: each is a pure function of its key, whichever process asks for it and in whatever order."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.schema import Task


class Purpose(StrEnum):
    """What numbers are drawn for; part of the key, so that one draw more or less leaves all others as they are."""

    MIXTURE = "mixture"
    ORDER = "order"
    SUBSTITUTE = "substitute"
    VIEW = "view"
    FRAMES = "frames"
    CAPTION = "caption"
    TARGET_CAPTION = "target_caption"
    QUESTIONS = "questions"
    WINDOW = "window"
    SPLIT = "split"
    MASK = "mask"


def key_bits(purpose: Purpose, *key: int | str, words: int = 2) -> NDArray[np.uint64]:
    """[words] uint64, at most 8: BLAKE2b of the key."""
    text = "/".join(map(str, (purpose, *key)))
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8 * words).digest(), "<u8").astype(np.uint64)


def uniforms(count: int, purpose: Purpose, *key: int | str) -> NDArray[np.float64]:
    """[count] numbers in [0, 1): the stream of a Philox generator whose key is the draw's key."""
    generator = np.random.Generator(np.random.Philox(key=key_bits(purpose, *key)))
    return generator.random(count)


@dataclass(frozen=True, kw_only=True)
class SampleDraws:
    """The draws of one sample in one epoch: augmentation, choice of texts, masks."""

    seed: int
    task: Task
    epoch: int
    index: int
    """In the stream's manifest."""

    def uniforms(self, count: int, purpose: Purpose) -> NDArray[np.float64]:
        """[count] numbers in [0, 1)."""
        return uniforms(count, purpose, self.seed, self.task, self.epoch, self.index)

    def one_of(self, count: int, purpose: Purpose) -> int:
        """A number below `count`."""
        return int(self.uniforms(1, purpose)[0] * count)

    def order(self, count: int, purpose: Purpose) -> list[int]:
        """The numbers below `count`, shuffled."""
        return np.argsort(self.uniforms(count, purpose), kind="stable").tolist()
