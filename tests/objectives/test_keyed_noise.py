"""SplitMix64 in torch against the same in Python's integers, and what the noise looks like."""

import math

import pytest
import torch

from megatron_mplug2.objectives.keyed_noise import gumbel, uniform

MASK = 2**64 - 1


def mixed(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def unmixed(x: int) -> int:
    """The word that `mixed` turns into x."""
    x = x ^ (x >> 31) ^ (x >> 62)
    x = (x * pow(0x94D049BB133111EB, -1, 2**64)) & MASK
    x = x ^ (x >> 27) ^ (x >> 54)
    x = (x * pow(0xBF58476D1CE4E5B9, -1, 2**64)) & MASK
    x = x ^ (x >> 30) ^ (x >> 60)
    return (x - 0x9E3779B97F4A7C15) & MASK


@pytest.mark.parametrize(("word", "published"), [(0, 0xE220A8397B1DCDAF), (0x9E3779B97F4A7C15, 0x6E789E6AA1B965F4)])
def test_is_the_published_splitmix64(word: int, published: int) -> None:
    """The first two outputs of the generator seeded with 0, from its authors' test vectors."""
    assert uniform(torch.tensor(signed(word))).item() == ((published >> 12) + 0.5) / 2**52


@pytest.mark.parametrize("key", [(0,), (1, 2, 3), (7, -1, 2**62), (3, 2**63 - 1)])
def test_equals_integer_arithmetic(key: tuple[int, ...]) -> None:
    state = 0
    for word in key:
        state = mixed(state ^ (word & MASK))
    got = uniform(*key[:-1], torch.tensor(key[-1]))
    assert got.dtype == torch.float64
    assert got.item() == ((state >> 12) + 0.5) / 2**52


@pytest.mark.parametrize(("state", "number"), [(0, 2.0**-53), (MASK, 1 - 2.0**-53)])
def test_ends_of_the_interval_are_never_reached(state: int, number: float) -> None:
    """The keys of the extreme states still give finite Gumbel noise."""
    word = torch.tensor(signed(unmixed(state)))
    assert uniform(word).item() == number
    assert gumbel(word).isfinite()


def test_numbers_are_uniform_and_every_word_matters() -> None:
    rows, columns = torch.arange(256)[:, None], torch.arange(256)
    noise = uniform(5, 9, rows, columns)
    assert noise.shape == (256, 256)
    cells = torch.histc(noise, bins=64, min=0, max=1)
    expected = noise.numel() / 64
    assert ((cells - expected) ** 2 / expected).sum() < 103.4  # 0.999 quantile of chi-square with 63 degrees of freedom
    for other in (uniform(6, 9, rows, columns), uniform(5, 8, rows, columns), uniform(9, 5, rows, columns), noise.T, noise.roll(1, 1)):
        correlation = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1]
        assert correlation.abs() < 0.02


def test_gumbel_has_its_mean_and_variance() -> None:
    noise = gumbel(1, torch.arange(200_000))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
