"""From a position in a stream to a sample: each epoch is a keyed order of the manifest, whatever ranks and workers there are."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.draws import Purpose, key_bits, mix

Int64s = NDArray[np.int64]

BLOCK = 256
"""Samples that are read from one place: about 10 MB of pictures in a row, or most of a tar of clips."""
WINDOW = 64 * BLOCK
"""Samples that are shuffled among each other. A global batch of 1,024 takes about 16 of each of a window's blocks, and touches about as
many tars as there are blocks; of a shuffle of everything it would touch nearly 1,024. A power of four needs no cycle walking."""

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


class EpochOrder:
    """One epoch: every sample once, in an order that is local and needs no table.

    The manifest, taken as a ring, is cut into blocks at a drawn place, so that blocks end elsewhere in each epoch. The blocks are permuted;
    each 64 of them in a row are a window, and the samples of a window are permuted. The last window takes what is left over, up to the
    size of two. A manifest of less than two windows is one window: a permutation of all samples, without blocks.
    """

    def __init__(self, size: int, *key: int | str) -> None:
        self._size = size
        self._key = key
        self._windows = max(size // WINDOW, 1)
        self._whole_blocks = size // BLOCK
        self._cut = int(key_bits(Purpose.ORDER, *key, "cut")[0]) % size

    def __call__(self, places: Int64s) -> Int64s:
        """Samples at places in [0, size)."""
        if self._windows == 1:
            return Permutation(self._size, Purpose.ORDER, *self._key)(places)
        blocks, inside = np.divmod(self._shuffled(places), BLOCK)
        whole = blocks < self._whole_blocks
        blocks[whole] = Permutation(self._whole_blocks, Purpose.ORDER, *self._key, "blocks")(blocks[whole])
        return (blocks * BLOCK + inside + self._cut) % self._size

    def _shuffled(self, places: Int64s) -> Int64s:
        """Places within the permuted blocks."""
        shuffled = np.empty_like(places)
        windows = np.minimum(places // WINDOW, self._windows - 1)
        for window in np.unique(windows).tolist():
            here, start = windows == window, window * WINDOW
            size = WINDOW if window < self._windows - 1 else self._size - start
            shuffled[here] = start + Permutation(size, Purpose.ORDER, *self._key, "window", window)(places[here] - start)
        return shuffled


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Where positions of a stream lead; both arrays have the positions' shape."""

    epochs: Int64s
    """Of the sample's dataset: how often it was gone through before."""
    indices: Int64s
    """In the stream's manifest."""


class Order(Protocol):
    """The order of a stream: a pure function of the position."""

    @property
    def size(self) -> int:
        """Samples in the manifest."""

    def at(self, positions: Int64s) -> Draw:
        """Epochs and samples at positions >= 0."""

    def dataset(self, index: int) -> range:
        """Indices of the dataset that a sample belongs to."""


class Sampler:
    """The order of one dataset. An epoch holds every sample once; a global batch may reach over the end of an epoch."""

    def __init__(self, *, seed: int, task: Task, size: int, number: int = 0) -> None:
        """`number`: the dataset's place in its stream."""
        self._key: tuple[int | str, ...] = (seed, f"{task}.{number}" if number else task)
        self.size = size

    def at(self, positions: Int64s) -> Draw:
        epochs, places = np.divmod(positions, self.size)
        indices = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            indices[here] = EpochOrder(self.size, *self._key, epoch)(places[here])
        return Draw(epochs=epochs, indices=indices)

    def dataset(self, index: int) -> range:
        return range(self.size)


class ManifestOrder:
    """The order of a validation: the manifest's own, over and over."""

    def __init__(self, size: int) -> None:
        self.size = size

    def at(self, positions: Int64s) -> Draw:
        epochs, indices = np.divmod(positions, self.size)
        return Draw(epochs=epochs, indices=indices)

    def dataset(self, index: int) -> range:
        return range(self.size)


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
