import numpy as np
import pytest

from megatron_mplug2.config.data import DatasetConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.interleave import LONGEST_PERIOD, Quotas, training_order
from megatron_mplug2.data.quarantine import candidates
from megatron_mplug2.data.sampler import Order, Sampler
from megatron_mplug2.errors import UserError


def make_order(*datasets: tuple[int, float | None, int]) -> Order:
    """Of (samples, weight, repeat)."""
    configs = [DatasetConfig(folder="a", weight=weight, repeat=repeat) for _, weight, repeat in datasets]
    return training_order(seed=5, task=Task.IMAGE_TEXT, datasets=configs, sizes=[size for size, _, _ in datasets])


@pytest.mark.parametrize("quotas", [(1,), (1, 1), (7, 3), (1, 1000), (5, 1, 3, 8), (2**31, 2**31 - 1)])
def test_quotas_are_exact_and_evenly_spaced(quotas: tuple[int, ...]) -> None:
    period = sum(quotas)
    places = np.arange(min(3 * period, 30_000)) + (0 if period < 10_000 else 2 * period - 15_000)
    numbers, own = Quotas(quotas).at(places)
    for number, quota in enumerate(quotas):
        mine = own[numbers == number]
        assert np.array_equal(mine, np.arange(mine[0], mine[0] + len(mine))), "each dataset goes on without a gap"
        counts = np.cumsum(numbers == number)
        assert np.abs(counts - (np.arange(len(places)) + 1) * quota / period).max() < len(quotas)
        if period < 10_000:
            assert len(mine) == 3 * quota


def test_places_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        Quotas((LONGEST_PERIOD, 1))
    with pytest.raises(UserError, match=r"data.train.image_text has 4,400,000,100 samples an epoch, .* lower its repeat"):
        make_order((400_000_000, None, 11), (100, None, 1))


def test_repeats() -> None:
    order = make_order((50, None, 1), (20, None, 3))
    for epoch in range(2):
        drawn = order.at(np.arange(110) + 110 * epoch)
        assert np.bincount(drawn.indices).tolist() == [1] * 50 + [3] * 20
        first, second = drawn.epochs[drawn.indices < 50], drawn.epochs[drawn.indices >= 50]
        assert set(first.tolist()) == {epoch} and np.bincount(second).tolist()[-3:] == [20, 20, 20]
        assert len({*zip(drawn.epochs.tolist(), drawn.indices.tolist(), strict=True)}) == 110, "each time with draws of its own"


def test_weights_are_shares_whatever_the_sizes() -> None:
    drawn = make_order((1000, 1.0, 1), (10, 3.0, 1)).at(np.arange(400))
    assert (drawn.indices < 1000).sum() == 100
    small = drawn.indices[drawn.indices >= 1000]
    assert (np.sort(small.reshape(30, 10), axis=1) == np.arange(1000, 1010)).all(), "in epochs of its own"


def test_one_dataset_is_the_sampler_alone() -> None:
    positions = np.arange(300)
    expected = Sampler(seed=5, task=Task.IMAGE_TEXT, size=100).at(positions)
    for one in (make_order((100, None, 1)), make_order((100, 0.5, 1)), make_order((100, None, 4))):
        assert np.array_equal(one.at(positions).indices, expected.indices) and np.array_equal(one.at(positions).epochs, expected.epochs)


def test_datasets_of_one_size_have_different_orders() -> None:
    drawn = make_order((100, None, 1), (100, None, 1)).at(np.arange(200)).indices
    assert (drawn[drawn < 100] != drawn[drawn >= 100] - 100).any()


def test_an_empty_dataset_is_told() -> None:
    with pytest.raises(UserError, match=r"a holds no samples: .* data.train.image_text"):
        make_order((10, None, 1), (0, None, 1))


def test_substitutes_are_of_the_same_dataset_and_never_in_the_batch() -> None:
    order = make_order((60, None, 1), (40, None, 2))
    for start in (0, 32, 64, 128):  # one reaches over the end of an epoch
        drawn = order.at(np.arange(start, start + 32)).indices.tolist()
        for place, index in enumerate(drawn):
            found = set(candidates(order, seed=5, task=Task.IMAGE_TEXT, start=start, global_batch=32, position=start + place))
            assert found and not found & set(drawn)
            assert {one < 60 for one in found} == {index < 60}


def test_a_dataset_that_is_used_up_takes_substitutes_of_the_others() -> None:
    """Then of the batch, where the others have few."""
    for large, reaches_the_batch in ((60, False), (12, True)):
        order = make_order((large, 1.0, 1), (5, 3.0, 1))
        drawn = order.at(np.arange(32)).indices.tolist()
        places = [place for place, index in enumerate(drawn) if index >= large]
        found = [list(candidates(order, seed=5, task=Task.IMAGE_TEXT, start=0, global_batch=32, position=place)) for place in places]
        left = set(range(large)) - set(drawn)
        for place, ones in zip(places, found, strict=True):
            tried = [one in left for one in ones]
            assert tried == sorted(tried, reverse=True) and drawn[place] not in ones
            assert all(tried) is not reaches_the_batch
        firsts = [ones[0] for ones in found]
        assert len(set(firsts)) == len(firsts) or reaches_the_batch, "positions take turns"
