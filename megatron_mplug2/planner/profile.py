"""The file of a machine that `mplug2 bench calibrate` has measured, which `mplug2 plan --gpu` takes in a GPU's place."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from megatron_mplug2.config.training import Precision
from megatron_mplug2.errors import UserError
from megatron_mplug2.planner.hardware import Efficiency, Gpu, Link, known_gpu
from megatron_mplug2.planner.rates import Curve, Exchange, Measured

FIGURES = "figures"
"""Where the profile stands in the file, which is a benchmark's result."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One machine, with a rank a core or a GPU."""

    name: str
    precision: Precision
    memory: float
    """Bytes a rank has if all are there."""
    measured: Measured

    def gpu(self) -> Gpu:
        """The machine as the planner takes it: its peak is the quickest product of one rank alone, and it has no other nodes."""
        alone = self.measured.rates[1]
        link = Link(name="measured exchanges", bandwidth=alone.memory, latency=0.0)
        return Gpu(
            name=self.name,
            peak={self.precision: max(rate for _, rate in (*alone.forward.products.points, *alone.backward.products.points))},
            memory=self.memory,
            memory_bandwidth=alone.memory,
            inside=link,
            outside=link,
            efficiency=Efficiency(compute=1.0, memory=1.0, source="measured rates by kind of work and size"),
            measured=self.measured,
        )


_PROFILE = TypeAdapter(Profile)


def profile_tree(profile: Profile) -> Any:
    """As JSON has it."""
    return _PROFILE.dump_python(profile, mode="json")


def read_profile(path: Path) -> Profile:
    """Raises UserError for a file that is none."""
    try:
        profile = _PROFILE.validate_python(json.loads(path.read_text(encoding="utf-8"))[FIGURES])
    except OSError as error:
        raise UserError(f"--gpu {path}: {error.strerror}: name a GPU, or a file that `mplug2 bench calibrate` has written") from None
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"--gpu {path} is no profile at {place or 'its top'}: write it anew with `mplug2 bench calibrate`") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--gpu {path} is no profile, or is cut off: write it anew with `mplug2 bench calibrate`") from None
    if (lack := _lack(profile)) is not None:
        raise UserError(f"--gpu {path} is no profile, {lack}: write it anew with `mplug2 bench calibrate`")
    return profile


def _lack(profile: Profile) -> str | None:
    """What a plan would ask for in vain."""
    measured = profile.measured
    rates, exchanges = measured.rates, measured.exchanges
    if 1 not in rates:
        return "it has no rates of one rank alone"
    for count in sorted(rates.keys() - {1}):
        if exchanges.get(count, {}).keys() != set(Exchange):
            return f"it has no rates of all exchanges between {count} ranks"
        if any(split and count not in split for split in (measured.split, measured.sequence)):
            return f"it has no rates of layers that are split while {count} ranks work"
    every = [one for some in (rates, measured.split, measured.sequence) for one in some.values()]
    passes = [each for one in every for each in (one.forward, one.backward)]
    curves = [curve for each in passes for curve in (each.products, each.attention)]
    curves += [curve for each in exchanges.values() for curve in each.values()]
    single = [profile.memory, *(one.memory for one in every), *(each.elementwise for each in passes)]
    if not all(map(_is_whole, curves)) or min(single) <= 0:
        return "it has a rate that is none"
    return None


def _is_whole(curve: Curve) -> bool:
    sizes = [size for size, _ in curve.points]
    return bool(sizes) and all(low < high for low, high in pairwise([0.0, *sizes])) and min(rate for _, rate in curve.points) > 0


def profile_of(asked: str) -> Profile | None:
    """What is asked for where it is a file; None where it is a GPU's name. Raises UserError for a file that is no profile."""
    path = Path(asked)
    return read_profile(path) if path.suffix == ".json" or path.is_file() else None


def gpu_of(asked: str) -> Gpu:
    """A GPU by its name, in any case of letters, or the machine of a profile's file. Raises UserError where it is neither."""
    profile = profile_of(asked)
    return known_gpu(asked) if profile is None else profile.gpu()
