"""Results that go between processes: what arrives equals what was sent, and stays so while somebody holds it."""

import os
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from megatron_mplug2.data.parcel import Packer, Unpacker, stacked_on_arrival


@dataclass(frozen=True)
class Post:
    """A sender and its receiver, in one process."""

    packer: Packer = field(default_factory=Packer)
    unpacker: Unpacker = field(default_factory=Unpacker)
    crates: list[int] = field(default_factory=list)
    """Of each parcel."""

    def send(self, result: object) -> Any:
        self.packer.fill_again(self.unpacker.emptied())
        parcel = self.packer.pack(result)
        self.crates.append(parcel.crate)
        if not self.unpacker.knows(parcel):
            self.unpacker.add(parcel, os.dup(self.packer.handle(parcel)))
        return self.unpacker.unpack(parcel)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_stacked_tensors_arrive_as_torchs_stack(dtype: torch.dtype) -> None:
    clips = [torch.randint(0, 256, (3, 2, 5, 7)).to(dtype) for _ in range(3)]
    clips[1] = clips[1].transpose(2, 3).contiguous().transpose(2, 3)  # in another order of memory
    found, label = Post().send((stacked_on_arrival(clips), "a clip"))
    assert torch.equal(found, torch.stack(clips)) and found.dtype == dtype and found.is_contiguous()
    assert label == "a clip"


def test_stacks_and_tensors_in_one_parcel() -> None:
    clips, ids = [torch.arange(6) + number for number in range(4)], torch.arange(9)
    first, second, third = Post().send((ids, stacked_on_arrival(clips), stacked_on_arrival(clips[:1])))
    assert torch.equal(first, ids) and torch.equal(second, torch.stack(clips)) and torch.equal(third, clips[0][None])


def test_an_empty_tensor() -> None:
    assert Post().send(torch.empty(2, 0)).shape == (2, 0)


def test_what_is_held_is_not_written_over() -> None:
    post = Post()
    held = [post.send((torch.full((5000,), number), torch.full((3,), -number)))[number % 2][1:3] for number in range(6)]
    assert [row.tolist() for row in held] == [[number * (-1) ** (number % 2)] * 2 for number in range(6)]
    assert post.crates == [0, 1, 2, 3, 4, 5]


def test_an_array_holds_its_crate_too() -> None:
    post = Post()
    held = post.send(torch.arange(5000).numpy())[7:9]
    post.send(torch.zeros(5000))
    assert held.tolist() == [7, 8] and post.crates == [0, 1]


def test_a_crate_is_filled_again_when_its_last_tensor_is_gone() -> None:
    post = Post()
    first, second = post.send((torch.zeros(1000), torch.zeros(1000)))
    third = post.send(torch.full((1000,), 3))
    del first
    fourth = post.send(torch.full((1000,), 4))
    del second
    fifth = post.send(torch.full((2000,), 5))  # larger than what lay there before
    assert post.crates == [0, 1, 2, 0]
    assert {int(third.sum()), int(fourth.sum())} == {3000, 4000} and fifth.tolist() == [5] * 2000


def test_the_smallest_empty_crate_that_is_large_enough_is_taken() -> None:
    post = Post()
    for results in [[post.send(torch.zeros(size)) for size in (4000, 1000, 2000)]]:
        results.clear()
    assert post.crates == [0, 1, 2]
    held = [post.send(torch.zeros(size)) for size in (1500, 100, 3000, 100)]
    assert post.crates[3:] == [2, 1, 0, 3] and len(held) == 4


def test_what_does_not_pickle_leaves_the_crates_usable() -> None:
    post = Post()
    post.send(torch.zeros(1000))
    with pytest.raises((TypeError, AttributeError), match="pickle"):
        post.send((torch.zeros(1000), lambda: 0))
    assert post.send(torch.ones(1000)).sum() == 1000 and set(post.crates) == {0}


def test_results_outlive_the_receiver_and_the_sender() -> None:
    post = Post()
    result = post.send(torch.arange(1000))
    post.unpacker.close()
    assert not post.unpacker.knows(post.packer.pack(0)) and torch.equal(result, torch.arange(1000))
