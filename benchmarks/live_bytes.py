"""Counts the bytes of the tensors that are alive, and their peak: what an allocator would need at least. Works on meta tensors too."""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Of what is made inside the `with` block; storages are counted once, however many views they have."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in _dense((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        self._count(_dense(result), given)
        return result

    def _count(self, tensors: Iterable[torch.Tensor], given: set[int]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            name, size = storage._cdata, storage.nbytes()
            if name in self._known or name in given:
                continue
            self._known.add(name)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, name, size)  # torch keeps the storage's object as long as the storage

    def _gone(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def _dense(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in a tree. Of a sparse one, which has no storage, its indices and values; not oneDNN's: a kernel's workspace."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor) and not leaf.is_mkldnn:
            yield from (leaf._indices(), leaf._values()) if leaf.is_sparse else (leaf,)
