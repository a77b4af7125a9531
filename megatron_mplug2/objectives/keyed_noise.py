"""Random numbers that are a pure function of their key, whichever rank asks for them and in whatever order."""

import torch

# Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014): SplitMix64's increment and finalizer, as int64.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_UNIFORM_BITS = 52


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: int64's own one repeats the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = x + _INCREMENT
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def uniform(*key: int | torch.Tensor) -> torch.Tensor:
    """fp64 numbers in the open interval (0, 1) for int64 key words, which broadcast against each other; at least one is a tensor.

    Each word is mixed into a 64-bit state by SplitMix64, one after another, so their order matters.
    """
    device = next(word.device for word in key if isinstance(word, torch.Tensor))
    state = torch.zeros((), dtype=torch.int64, device=device)
    for word in key:
        state = _mix(state ^ word)
    # Half a unit away from both ends; with 52 bits the sum is still exact.
    return (_shift_right(state, 64 - _UNIFORM_BITS).double() + 0.5) * 2.0**-_UNIFORM_BITS


def gumbel(*key: int | torch.Tensor) -> torch.Tensor:
    """fp64 standard Gumbel noise for a key (see `uniform`); always finite."""
    return -torch.log(-torch.log(uniform(*key)))
