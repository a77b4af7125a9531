import numpy as np
import pytest

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.draws import Purpose
from megatron_mplug2.data.sampler import BLOCK, WINDOW, EpochOrder, ManifestOrder, Part, Permutation, Sampler


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 100, 4096, 4097, 100_003])
def test_permutation_is_a_bijection(size: int) -> None:
    elements = Permutation(size, Purpose.ORDER, 1)(np.arange(size))
    assert np.array_equal(np.sort(elements), np.arange(size))


def test_permutation_computes_each_place_alone() -> None:
    permutation = Permutation(1000, Purpose.ORDER, 1)
    whole = permutation(np.arange(1000))
    assert all(permutation(np.array([place]))[0] == whole[place] for place in range(0, 1000, 13))


def test_permutation_shuffles() -> None:
    """Places of an element over many keys are uniform (chi-square of 19 degrees of freedom), and neighbours don't stay together."""
    places = np.stack([Permutation(20, Purpose.ORDER, key)(np.arange(20)) for key in range(4000)])
    for place in range(20):
        counts = np.bincount(places[:, place], minlength=20)
        assert ((counts - 200) ** 2 / 200).sum() < 50  # beyond it in 1 of 10,000
    gaps = np.bincount(np.diff(places, axis=1).ravel() % 20, minlength=20)[1:]
    assert gaps.min() > 0.8 * gaps.mean()


def test_an_epoch_holds_every_sample_once_and_epochs_differ() -> None:
    sampler = Sampler(seed=7, task=Task.TEXT, size=50)
    drawn = sampler.at(np.arange(150))
    assert np.array_equal(drawn.epochs, np.repeat([0, 1, 2], 50))
    epochs = drawn.indices.reshape(3, 50)
    assert (np.sort(epochs) == np.arange(50)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_order_depends_on_seed_and_stream() -> None:
    orders = [Sampler(seed=seed, task=task, size=50).at(np.arange(50)).indices.tolist() for seed in (0, 1) for task in Task]
    assert len({tuple(order) for order in orders}) == 6


def test_a_batch_may_reach_over_the_end_of_an_epoch() -> None:
    sampler = Sampler(seed=7, task=Task.TEXT, size=50)
    both = sampler.at(np.arange(40, 60))
    assert np.array_equal(both.indices, np.concatenate([sampler.at(np.arange(40, 50)).indices, sampler.at(np.arange(50, 60)).indices]))


SIZES = [1, 2, BLOCK - 1, WINDOW, 2 * WINDOW - 1, 2 * WINDOW, 2 * WINDOW + 1, 2 * WINDOW + BLOCK, 3 * WINDOW - 1, 65_537, 1_000_003]


@pytest.mark.parametrize("size", SIZES)
def test_an_epoch_is_a_bijection_at_any_size(size: int) -> None:
    assert (np.bincount(EpochOrder(size, 3, "text", 1)(np.arange(size)), minlength=size) == 1).all()


def test_less_than_two_windows_are_shuffled_whole() -> None:
    size = 2 * WINDOW - 1
    whole = Permutation(size, Purpose.ORDER, 3, "text", 1)(np.arange(100))
    assert np.array_equal(Sampler(seed=3, task=Task.TEXT, size=size).at(np.arange(size, size + 100)).indices, whole)


def test_any_positions_give_what_the_whole_order_has() -> None:
    sampler = Sampler(seed=1, task=Task.IMAGE_TEXT, size=100_003)
    whole = sampler.at(np.arange(250_000)).indices
    positions = np.random.default_rng(0).integers(0, 250_000, 500).reshape(20, 25)
    assert np.array_equal(sampler.at(positions).indices, whole[positions])


def test_samples_of_a_huge_order_are_distinct_and_below_its_size() -> None:
    size = 400_000_000
    sampler = Sampler(seed=1, task=Task.IMAGE_TEXT, size=size)
    windows = [0, 7_000, size // WINDOW - 1]  # the last one takes what is left
    positions = np.concatenate([np.arange(window * WINDOW, window * WINDOW + 10_000) for window in windows])
    indices = sampler.at(positions).indices
    assert len(np.unique(indices)) == 30_000 and indices.min() >= 0 and indices.max() < size


def test_block_borders_differ_by_epoch_and_seed() -> None:
    """Samples that a border parts in one epoch are read together in the next."""

    def borders(seed: int, epoch: int) -> set[int]:
        size = 10 * WINDOW
        order = EpochOrder(size, seed, "text", epoch)(np.arange(size))
        window_of = np.empty(size, dtype=np.int64)
        window_of[order] = np.arange(size) // WINDOW
        return set(np.flatnonzero(np.diff(window_of)).tolist())

    found = [borders(0, 0), borders(0, 1), borders(1, 0)]
    assert all(len({border % BLOCK for border in one}) <= 2 and len(one) > 300 for one in found)  # on one grid, and where the ring closes
    assert not found[0] & found[1] and not found[0] & found[2]


def test_a_global_batch_touches_few_tars() -> None:
    """Pictures of CC12M's size in tars of 6,500: a batch of 1,024 lies in 64 blocks, of a whole shuffle in 600 tars or more."""
    size, tar, batch = 10_000_000, 6_500, 1024
    sampler = Sampler(seed=0, task=Task.IMAGE_TEXT, size=size)
    ours = [len(np.unique(sampler.at(np.arange(start, start + batch)).indices // tar)) for start in range(0, 64 * batch, batch)]
    shuffled = Permutation(size, Purpose.ORDER, 0)(np.arange(batch))
    assert max(ours) <= 72 and len(np.unique(shuffled // tar)) > 600
    blocks = np.unique(sampler.at(np.arange(batch)).indices // BLOCK, return_counts=True)[1]
    assert blocks.max() <= 40  # samples that stand side by side in the corpus don't crowd one batch


def test_manifest_order_begins_again() -> None:
    drawn = ManifestOrder(3).at(np.arange(5))
    assert drawn.indices.tolist() == [0, 1, 2, 0, 1] and drawn.epochs.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(("data_size", "microbatch"), [(1, 2), (1, 24), (2, 2), (3, 4), (4, 3), (12, 2)])
def test_ranks_and_microbatches_tile_the_global_batch(data_size: int, microbatch: int) -> None:
    microbatches = 24 // (data_size * microbatch)
    parts = [Part(data_rank=rank, data_size=data_size, microbatches=microbatches, microbatch=microbatch) for rank in range(data_size)]
    positions = np.stack([part.positions(240) for part in parts])
    # [rank, m, b] -> [m, rank, b]: global microbatch m * data_size + rank.
    assert np.array_equal(positions.transpose(1, 0, 2).ravel(), np.arange(240, 264))
