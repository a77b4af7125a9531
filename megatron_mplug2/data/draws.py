"""Random numbers of the loader: each is a pure function of its key, whichever process asks for it and in whatever order."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.schedule import Task

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Purpose(StrEnum):
    """What numbers are drawn for; part of the key, so that one draw more or less leaves all others as they are."""

    MIXTURE = "mixture"
    ORDER = "order"
    SUBSTITUTE = "substitute"
    VIEW = "view"
    FRAMES = "frames"
    RANDAUGMENT = "randaugment"
    CAPTION = "caption"
    TARGET_CAPTION = "target_caption"
    QUESTIONS = "questions"
    WINDOW = "window"
    SPLIT = "split"
    MASK = "mask"
    SHARD = "shard"


def key_bits(purpose: Purpose, *key: int | str, words: int = 1) -> NDArray[np.uint64]:
    """[words] uint64, at most 8: BLAKE2b of the key."""
    text = "/".join(map(str, (purpose, *key)))
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8 * words).digest(), "<u8").astype(np.uint64)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def weyl(count: int, start: np.uint64, first: int = 0) -> NDArray[np.uint64]:
    """[count] terms, from number `first` on, of SplitMix64's sequence before the finalizer: multiples of 2^64 / golden ratio, which fill
    the range evenly."""
    return np.arange(first, first + count, dtype=np.uint64) * _GOLDEN + start


def fractions(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """In [0, 1): the upper 53 bits, which is what a double holds."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniforms(count: int, purpose: Purpose, *key: int | str) -> NDArray[np.float64]:
    """[count] numbers in [0, 1): SplitMix64, begun at the key's hash."""
    return fractions(mix(weyl(count, key_bits(purpose, *key)[0])))


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
