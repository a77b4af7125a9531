"""Pieces to and from files in the format of `torch.distributed.checkpoint`: one file a rank, one index.

torch's own planners know whole tensors and DTensors, whose uneven blocks lie elsewhere than ours; these know pieces. The index is a
pickle: it is read by an unpickler that makes nothing but the index's own classes, so a stranger's checkpoint cannot run code.
"""

import io
import math
import pickle
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import ReadItem, SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.errors import UserError

INDEX = ".metadata"

_DCP = "torch.distributed.checkpoint"
_INDEX_CLASSES = {
    (f"{_DCP}.metadata", "Metadata"),
    (f"{_DCP}.metadata", "MetadataIndex"),
    (f"{_DCP}.metadata", "TensorStorageMetadata"),
    (f"{_DCP}.metadata", "ChunkStorageMetadata"),
    (f"{_DCP}.metadata", "TensorProperties"),
    (f"{_DCP}.metadata", "StorageMeta"),
    (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"),
    (f"{_DCP}.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
}


def write(folder: Path, pieces: list[Piece], group: dist.ProcessGroup | None = None) -> None:
    """Writes every rank's pieces and the index. Collective over a group of all ranks; fails on all of them or on none.

    Raises:
        UserError: a rank could not write.
        RuntimeError: the pieces of all ranks are not every element once, or another failure of a rank.
    """
    try:
        save({}, storage_writer=_Writer(folder), planner=_PieceSavePlanner(pieces), process_group=group)
    except CheckpointException as error:  # not an Exception: nothing above would catch it
        rank, (cause, _) = min(error.failures.items())
        if isinstance(cause, OSError):
            raise UserError(f"cannot write a checkpoint in {folder}: {cause.strerror or cause} (rank {rank})") from None
        raise RuntimeError(str(error)) from None


class _Writer(FileSystemWriter):
    """Fails by the system's own error, which torch.save hides behind one of its own when it closes the file."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def own_files(folder: Path, rank: int) -> list[Path]:
    """The files that a rank has written."""
    return sorted(folder.glob(f"__{rank}_*.distcp"))


class _PieceSavePlanner(DefaultSavePlanner):
    """Plans a rank's pieces; that all ranks' together tile every tensor is checked by the base class."""

    def __init__(self, pieces: list[Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._pieces = {MetadataIndex(piece.key, piece.offsets): piece for piece in pieces}

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([self._write_item(index, piece) for index, piece in self._pieces.items()])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        return self._pieces[write_item.index].tensor

    @staticmethod
    def _write_item(index: MetadataIndex, piece: Piece) -> WriteItem:
        data = TensorWriteData(
            chunk=_chunk(piece), properties=TensorProperties.create_from_tensor(piece.tensor), size=torch.Size(piece.full_size)
        )
        return WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data)


def _chunk(piece: Piece) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(offsets=torch.Size(piece.offsets), sizes=piece.tensor.shape)


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """What the index says of a tensor."""

    key: str
    size: tuple[int, ...]
    dtype: torch.dtype


class StoredTensors:
    """The tensors of a checkpoint, read a box at a time."""

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        """Reads the index. `files` are the names that it may refer to. Raises UserError where it is no index of these files."""
        self._folder = folder
        index = folder / INDEX
        try:
            with index.open("rb") as file:
                content: Metadata = _IndexUnpickler(file).load()
            self._tensors: dict[str, Any] = content.state_dict_metadata
            self._places: dict[MetadataIndex, Any] = content.storage_data
            foreign = {place.relative_path for place in self._places.values()} - set(files)
        except Exception as error:  # whatever a pickle of something else, or of another version, leads to
            raise UserError(f"{index} is not a checkpoint's index: {error}") from error
        if foreign:
            raise UserError(f"{index} refers to {min(foreign)}, which is not a file of the checkpoint")

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Key -> unsharded size."""
        return {key: tuple(stored.size) for key, stored in self._tensors.items()}

    def tensors(self) -> tuple[StoredTensor, ...]:
        """In the order of their keys."""
        return tuple(
            StoredTensor(key=key, size=tuple(stored.size), dtype=stored.properties.dtype) for key, stored in sorted(self._tensors.items())
        )

    @torch.no_grad()
    def read(self, pieces: list[Piece]) -> None:
        """Fills pieces in place, cast to their precision. Each stored box that is needed is read once.

        The keys must be there. Raises UserError where a piece is not covered by what is stored.
        """
        wanted: dict[MetadataIndex, list[tuple[ReadItem, torch.Tensor]]] = defaultdict(list)
        for piece in pieces:
            items = create_read_items_for_chunk_list(piece.key, self._tensors[piece.key], [_chunk(piece)])
            if sum(math.prod(item.lengths) for item in items) != piece.tensor.numel():
                raise UserError(f"{self._folder}: {piece.key} is stored in part only")
            for item in items:
                wanted[item.storage_index].append((item, _narrowed(piece.tensor, item.dest_offsets, item.lengths)))
        by_file: dict[str, list[MetadataIndex]] = defaultdict(list)
        for index in wanted:
            by_file[self._places[index].relative_path].append(index)
        for name, indices in by_file.items():
            with (self._folder / name).open("rb") as file:
                for index in sorted(indices, key=lambda index: self._places[index].offset):
                    stored = self._stored_box(file, self._places[index])
                    for item, target in wanted[index]:
                        target.copy_(_narrowed(stored, item.storage_offsets, item.lengths))

    @staticmethod
    def _stored_box(file: io.BufferedReader, place: Any) -> torch.Tensor:
        file.seek(place.offset)
        box: torch.Tensor = torch.load(io.BytesIO(file.read(place.length)), map_location="cpu", weights_only=True)
        return box


def _narrowed(tensor: torch.Tensor, offsets: torch.Size, lengths: torch.Size) -> torch.Tensor:
    for dim, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        tensor = tensor.narrow(dim, offset, length)
    return tensor


class _IndexUnpickler(pickle.Unpickler):
    """Makes only what an index is made of."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _INDEX_CLASSES:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _memory_format  # how Python before 3.11.4 writes a member of an enum
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _memory_format(owner: object, name: str) -> Any:
    """`getattr` for the one enum that an index has. Raises pickle.UnpicklingError for anything else."""
    if owner is not _MEM_FORMAT_ENCODING or not isinstance(name, str) or name not in _MEM_FORMAT_ENCODING.__members__:
        raise pickle.UnpicklingError("it names an attribute")
    return _MEM_FORMAT_ENCODING[name]
