"""From a position in a stream to a sample: each epoch is a keyed permutation of the manifest, whatever ranks and workers there are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.draws import Purpose, key_bits, mix

Int64s = NDArray[np.int64]

_ROUNDS = 8
_FEWEST_BITS = 4


class Permutation:
    """A keyed bijection of 0..size-1 that computes any place alone, without a table: a Feistel cipher over the next power of four,
    applied until it falls below `size` (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002)."""

    def __init__(self, size: int, purpose: Purpose, *key: int | str) -> None:
        half = (max((size - 1).bit_length(), _FEWEST_BITS) + 1) // 2
        self._size = np.uint64(size)
        self._half = np.uint64(half)
        self._mask = np.uint64((1 << half) - 1)
        self._keys = key_bits(purpose, *key, words=_ROUNDS)

    def __call__(self, places: Int64s) -> Int64s:
        """Elements at places in [0, size), of any shape."""
        values = self._cipher(places.astype(np.uint64))
        while (outside := values >= self._size).any():
            values[outside] = self._cipher(values[outside])
        return values.astype(np.int64)

    def _cipher(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix(right ^ key) & self._mask)
        return (left << self._half) | right


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Where positions of a stream lead; both arrays have the positions' shape."""

    epochs: Int64s
    indices: Int64s
    """In the stream's manifest."""


class Sampler:
    """The order of one stream. An epoch holds every sample once; a global batch may reach over the end of an epoch."""

    def __init__(self, *, seed: int, task: Task, size: int) -> None:
        self._seed = seed
        self._task = task
        self.size = size

    def at(self, positions: Int64s) -> Draw:
        """Epochs and samples at positions >= 0."""
        epochs, places = np.divmod(positions, self.size)
        indices = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = Permutation(self.size, Purpose.ORDER, self._seed, self._task, int(epoch))(places[here])
        return Draw(epochs=epochs, indices=indices)


class ManifestOrder:
    """The order of a validation: the manifest's own, over and over."""

    def __init__(self, size: int) -> None:
        self.size = size

    def at(self, positions: Int64s) -> Draw:
        epochs, indices = np.divmod(positions, self.size)
        return Draw(epochs=epochs, indices=indices)


Order = Sampler | ManifestOrder


@dataclass(frozen=True, kw_only=True)
class Part:
    """A data-parallel rank's part of each global batch: microbatches dealt to the ranks in turn."""

    data_rank: int
    data_size: int
    microbatches: int
    microbatch: int

    def positions(self, start: int) -> Int64s:
        """[microbatches, microbatch] positions of the rank in the global batch that begins at `start`: its microbatch m is the
        global batch's microbatch m * data_size + data_rank."""
        dealt = np.arange(self.microbatches) * self.data_size + self.data_rank
        return start + dealt[:, None] * self.microbatch + np.arange(self.microbatch)
