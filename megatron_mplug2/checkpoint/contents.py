"""What of a run goes into a checkpoint, which rank writes it, and what a rank reads back.

Keys are `kind/canonical name`: `weight/...` is the weight in the highest precision there is (the optimizer's fp32 copy where it keeps
one), the other kinds are optimizer states, and what a run keeps beside them (`training.momentum`). Nothing in them depends on the
layout, so any layout reads any other's.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import nn

from megatron_mplug2.checkpoint.optimizer_state import STEP, Held, Optimizer, held_states, is_sharded, state_names
from megatron_mplug2.checkpoint.pieces import Piece, pieces_of
from megatron_mplug2.models.weights import Weight
from megatron_mplug2.parallel.topology import Topology

WEIGHT = "weight"
AVERAGE = "average"
"""A trained weight's average over steps, where the run keeps one (`training.ema`)."""


def key_of(kind: str, name: str) -> str:
    return f"{kind}/{name}"


def pieces_to_save(weights: list[Weight], optimizer: Optimizer | None, topology: Topology) -> list[Piece]:
    """What this rank writes; over all ranks, every element of every tensor once.

    With ZeRO-1 each rank writes the range that it owns, weights too: with parameter gathering still to come, only there are they up
    to date. Else data-parallel ranks take turns.
    """
    held = held_states(optimizer) if optimizer is not None else {}
    sharded = optimizer is not None and is_sharded(optimizer)
    pieces: list[Piece] = []
    for index, weight in enumerate(weights):
        if not weight.saves or _is_replica(weight, topology):
            continue
        own = held.get(weight.param)
        # Of a frozen weight every rank has all, or it is held in ranges like the others.
        by_turns = not sharded or (own is None and not weight.param.requires_grad)
        if _has_turn(index, topology) if by_turns else own is not None:
            values, start = (own.values, own.start) if own is not None else (_flat(weight.param), 0)
            pieces += pieces_of(key_of(WEIGHT, weight.name), weight, values, start, topology)
            pieces += _state_pieces(weight, own, topology, step=start == 0 and topology.tensor_rank == 0)
    return pieces


def pieces_to_load(weights: list[Weight], optimizer: Optimizer | None, topology: Topology) -> list[Piece]:
    """What this rank fills: every parameter, as far as it has it, its fp32 copy and optimizer states where it holds them.

    Vocabulary padding, which is in no checkpoint, is set to zero here.
    """
    held = held_states(optimizer) if optimizer is not None else {}
    pieces: list[Piece] = []
    for weight in weights:
        own = held.get(weight.param)
        if _is_padded(weight, topology):
            _zero(weight.param, own)
        key = key_of(WEIGHT, weight.name)
        pieces += pieces_of(key, weight, *_own_part(weight.param, own), topology)
        if own is not None and own.copied:
            pieces += pieces_of(key, weight, own.values, own.start, topology)
        pieces += _state_pieces(weight, own, topology, step=True)
    return pieces


def copies_to_save(kind: str, weights: Sequence[Weight], copies: Sequence[torch.Tensor], topology: Topology) -> list[Piece]:
    """What this rank writes of tensors that have its weights' shapes and that every data-parallel rank holds whole."""
    pieces: list[Piece] = []
    for index, (weight, values) in enumerate(zip(weights, copies, strict=True)):
        if not _is_replica(weight, topology) and _has_turn(index, topology):
            pieces += pieces_of(key_of(kind, weight.name), weight, values.view(-1), 0, topology)
    return pieces


def copies_to_load(kind: str, weights: Sequence[Weight], copies: Sequence[torch.Tensor], topology: Topology) -> list[Piece]:
    """What this rank fills of the same: all of it but vocabulary padding, which is set to zero here."""
    pieces: list[Piece] = []
    for weight, values in zip(weights, copies, strict=True):
        if _is_padded(weight, topology):
            values.zero_()
        pieces += pieces_of(key_of(kind, weight.name), weight, values.view(-1), 0, topology)
    return pieces


def sizes(weights: list[Weight], optimizer: Optimizer | None) -> dict[str, tuple[int, ...]]:
    """Key -> unsharded size of everything that a checkpoint must have for these weights (of one stage)."""
    expected = {key_of(WEIGHT, weight.name): weight.full_size for weight in weights}
    for kind in state_names(optimizer) if optimizer is not None else ():
        trained = (weight for weight in weights if weight.param.requires_grad)
        expected |= {key_of(kind, weight.name): () if kind == STEP else weight.full_size for weight in trained}
    return expected


def _state_pieces(weight: Weight, held: Held | None, topology: Topology, *, step: bool) -> Iterator[Piece]:
    if held is None:
        return
    for kind, values in held.states.items():
        yield from pieces_of(key_of(kind, weight.name), weight, values, held.start, topology)
    if step and held.step is not None:
        yield Piece(key=key_of(STEP, weight.name), full_size=(), offsets=(), tensor=held.step)


def _own_part(param: nn.Parameter, held: Held | None) -> tuple[torch.Tensor, int]:
    """The parameter's own memory on this rank, flat, and where that begins."""
    return (held.part, held.start) if held is not None and held.part is not None else (_flat(param), 0)


def _flat(param: nn.Parameter) -> torch.Tensor:
    return param.detach().view(-1)


def _is_replica(weight: Weight, topology: Topology) -> bool:
    """Whether another tensor-parallel rank writes it."""
    return weight.partition_dim is None and topology.tensor_rank != 0


def _has_turn(index: int, topology: Topology) -> bool:
    """Whether this data-parallel rank writes the stage's weight number `index`, of those that all of them hold."""
    return index % topology.data_size == topology.data_rank


def _is_padded(weight: Weight, topology: Topology) -> bool:
    dim = weight.partition_dim
    return dim is not None and weight.block[dim] * topology.tensor_size > weight.full_size[dim]


def _zero(param: nn.Parameter, held: Held | None) -> None:
    own, _ = _own_part(param, held)
    for tensor in chain([own], [held.values, *held.states.values()] if held is not None else []):
        tensor.zero_()
