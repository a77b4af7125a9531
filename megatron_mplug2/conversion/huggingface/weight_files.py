"""Weights to and from safetensors, a file at a time: no more of them is in memory at once than one file holds."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from megatron_mplug2.conversion.lazy import LazyWeight
from megatron_mplug2.errors import UserError

FILE_BYTES = 10**9
"""Most bytes of one file; a larger weight has a file of its own."""
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
"""That weights may have, by safetensors' names."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def write_weights(folder: Path, weights: Sequence[LazyWeight]) -> None:
    """One file, or several with an index, as transformers names them."""
    files = list(_grouped(weights))
    if len(files) == 1:
        _write(folder / SINGLE, files[0])
        return
    places: dict[str, str] = {}
    for number, group in enumerate(files, start=1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        _write(folder / name, group)
        places |= {weight.name: name for weight in group}
    index = {"metadata": {"total_size": sum(weight.bytes for weight in weights)}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def read_weights(folder: Path) -> list[LazyWeight]:
    """What a folder holds, by name; nothing is read yet but headers.

    Raises:
        UserError: there are no weights, or a file is missing or damaged.
    """
    weights = [weight for name in _file_names(folder) for weight in _stored(folder / name)]
    return sorted(weights, key=lambda weight: weight.name)


def _grouped(weights: Sequence[LazyWeight]) -> Iterator[list[LazyWeight]]:
    group: list[LazyWeight] = []
    size = 0
    for weight in weights:
        if group and size + weight.bytes > FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(weight)
        size += weight.bytes
    yield group


def _write(path: Path, weights: Iterable[LazyWeight]) -> None:
    tensors = {weight.name: weight.read().contiguous() for weight in weights}
    try:
        save_file(tensors, path, metadata={"format": "pt"})  # which transformers asks for
    except SafetensorError as error:  # of a full disk too
        raise OSError(str(error)) from None
    path.chmod(0o644)  # it makes private files


def _file_names(folder: Path) -> list[str]:
    try:
        if (folder / SINGLE).is_file():
            return [SINGLE]
        names = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
    except FileNotFoundError:
        raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}: name a folder that `mplug2 convert` wrote") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{folder / INDEX} is damaged: export the model again") from None
    # A stranger's index names files of its own folder, or nothing.
    if foreign := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
        raise UserError(f"{folder / INDEX} names {foreign[0]!r}, which is not a file of the folder")
    return sorted(names)


def _stored(path: Path) -> Iterator[LazyWeight]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it isn't a mapping)
                part = file.get_slice(name)
                yield LazyWeight(name=name, size=torch.Size(part.get_shape()), dtype=DTYPES[part.get_dtype()], read=_reader(path, name))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): export the model again") from None
    except KeyError as error:
        raise UserError(f"{path} has weights of type {error}: export the model again, in fp32 or bf16") from None


def _reader(path: Path, name: str) -> Callable[[], torch.Tensor]:
    def read() -> torch.Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    return read
