import torch

from benchmarks.live_bytes import LiveBytes
from megatron_mplug2.models.cpu_functions import MANY, Linear

FLOAT = 4


def test_what_is_dropped_no_longer_counts() -> None:
    with LiveBytes() as counter:
        kept = torch.ones(10)
        dropped = torch.ones(20)
        del dropped
        view = kept[:5]
    assert (counter.now, counter.peak) == (10 * FLOAT, 30 * FLOAT)
    del kept
    assert counter.now == 10 * FLOAT
    del view
    assert counter.now == 0


def test_a_sparse_gradient_counts_by_its_rows() -> None:
    table, rows = torch.ones(1000, 3, requires_grad=True), torch.tensor([5, 7])
    with LiveBytes() as counter:
        torch.nn.functional.embedding(rows, table, sparse=True).sum().backward()
    assert table.grad is not None and table.grad.is_sparse
    assert 2 * 3 * FLOAT <= counter.now < 1000 * FLOAT


def test_onednn_s_tensors_are_let_through() -> None:
    x, weight = torch.ones(MANY, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    with LiveBytes() as counter:
        Linear.apply(x, weight, None).sum().backward()
    assert weight.grad is not None and x.grad is not None
    assert counter.now >= (weight.numel() + x.numel()) * FLOAT
