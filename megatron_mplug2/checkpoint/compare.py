"""Whether a checkpoint is of this model and this optimizer."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from megatron_mplug2.checkpoint.contents import WEIGHT
from megatron_mplug2.errors import UserError

SHOWN = 3
"""Names that an error lists of each sort."""

Sizes = Mapping[str, tuple[int, ...]]
"""Key -> unsharded size."""


def check_fits(checkpoint: Path, found: Sizes, expected: Sizes) -> None:
    """Raises UserError, in one line, where keys or sizes differ: of weights, else of the optimizer's kinds of state, else of its states."""
    differences = _differences(_weights(found, True), _weights(expected, True))
    if differences:
        raise UserError(f"{checkpoint} is of another model: {differences}")
    kinds, wanted = _state_kinds(found), _state_kinds(expected)
    if kinds != wanted:
        stored, kept = _listed(kinds) or "none", _listed(wanted) or "none"
        raise UserError(f"{checkpoint} has optimizer state {stored}, this run's optimizer keeps {kept}")
    differences = _differences(_weights(found, False), _weights(expected, False))
    if differences:
        raise UserError(f"{checkpoint} was trained on other weights of the model: {differences}")


def _weights(sizes: Sizes, weights: bool) -> Sizes:
    return {key: size for key, size in sizes.items() if (key.split("/")[0] == WEIGHT) == weights}


def _state_kinds(sizes: Sizes) -> list[str]:
    return sorted({key.split("/")[0] for key in sizes} - {WEIGHT})


def _differences(found: Sizes, expected: Sizes) -> str:
    sorts = {
        "missing": [_name(key) for key in expected if key not in found],
        "unexpected": [_name(key) for key in found if key not in expected],
        "of another size": [
            f"{_name(key)} {found[key]}, here {size}" for key, size in expected.items() if key in found and found[key] != size
        ],
    }
    return "; ".join(f"{len(names)} {sort} ({_listed(names)})" for sort, names in sorts.items() if names)


def _name(key: str) -> str:
    return key.removeprefix(f"{WEIGHT}/")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN] + ["..."] * (len(names) > SHOWN))
