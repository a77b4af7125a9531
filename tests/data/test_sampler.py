import numpy as np
import pytest

from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.draws import Purpose
from megatron_mplug2.data.sampler import ManifestOrder, Part, Permutation, Sampler


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
