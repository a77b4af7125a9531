"""Tensors of other people's files by name: safetensors, torch.save, TorchScript archives. Nothing in them is executed."""

import collections
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from megatron_mplug2.conversion.released_file import open_torch
from megatron_mplug2.errors import UserError

_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of a folder of transformers with a single file of weights.

    Raises:
        UserError: it cannot be read, is damaged, or holds no tensors.
    """
    file = next((path / name for name in _IN_FOLDERS if (path / name).is_file()), None) if path.is_dir() else path
    if file is None:
        raise UserError(f"{path} has neither {' nor '.join(_IN_FOLDERS)}: name a file of weights")
    content = _content(file)
    inside = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    assert isinstance(inside, Mapping)
    tensors = {str(name): value for name, value in inside.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{file} holds no tensors by name: name a file of weights")
    return tensors


def _content(file: Path) -> Mapping[str, object]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file} cannot be read ({error}): download it again") from None
    return _script_tensors(file) if _is_script(file) else open_torch(file)


def _is_script(file: Path) -> bool:
    """A zip with code beside its data."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(Path(name).name == "constants.pkl" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _script_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a TorchScript archive by dotted name; its code is not looked at."""
    try:
        with zipfile.ZipFile(file) as archive:
            data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = _ScriptUnpickler(archive, data.removesuffix("data.pkl")).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{file}: {error}, which a CLIP archive has no need of: it isn't loaded") from None
    except Exception:  # whatever a damaged archive leads to
        raise UserError(f"{file} is damaged or cut off: download it again") from None
    return dict(_named(root, ""))


class _Part:
    """Stands for an object of any of the archive's classes: keeps its attributes."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _ScriptUnpickler(pickle.Unpickler):
    """Makes tensors, containers and parts, nothing else."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Part
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name).dtype
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): collections.OrderedDict,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "bool", "double", "tensor")},
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known[module, name]

    def persistent_load(self, identity: Any) -> torch.Tensor:
        """[elements] of a stored tensor."""
        _, dtype, key, _, elements = identity
        data = bytearray(self._archive.read(f"{self._prefix}data/{int(key)}"))
        return torch.frombuffer(data, dtype=dtype, count=elements)


def _tensor(elements: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> torch.Tensor:
    return elements.as_strided(size, stride, offset)


def _named(part: object, prefix: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, value in vars(part).items() if isinstance(part, _Part) else ():
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{name}"] = value
        else:
            found |= _named(value, f"{prefix}{name}.")
    return found
