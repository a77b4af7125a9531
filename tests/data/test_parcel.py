"""Results that go between processes: what arrives equals what was sent."""

import pytest
import torch

from megatron_mplug2.data.parcel import pack, stacked_on_arrival, unpack


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_stacked_tensors_arrive_as_torchs_stack(dtype: torch.dtype) -> None:
    clips = [torch.randint(0, 256, (3, 2, 5, 7)).to(dtype) for _ in range(3)]
    clips[1] = clips[1].transpose(2, 3).contiguous().transpose(2, 3)  # in another order of memory
    found, label = unpack(*pack((stacked_on_arrival(clips), "a clip")))
    assert torch.equal(found, torch.stack(clips)) and found.dtype == dtype and found.is_contiguous()
    assert label == "a clip"


def test_stacks_and_tensors_in_one_parcel() -> None:
    clips, ids = [torch.arange(6) + number for number in range(4)], torch.arange(9)
    first, second, third = unpack(*pack((ids, stacked_on_arrival(clips), stacked_on_arrival(clips[:1]))))
    assert torch.equal(first, ids) and torch.equal(second, torch.stack(clips)) and torch.equal(third, clips[0][None])


def test_an_empty_tensor() -> None:
    assert unpack(*pack(torch.empty(2, 0))).shape == (2, 0)
