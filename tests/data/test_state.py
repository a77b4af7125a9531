from collections.abc import Sequence

import pytest

from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.state import DatasetState, DataState, check_same_data
from megatron_mplug2.errors import UserError


def dataset(
    folder: str, samples: int = 100, index: str = "i", fingerprint: str = "", weight: float | None = None, repeat: int = 1
) -> DatasetState:
    fingerprint = fingerprint or folder + index
    return DatasetState(folder=folder, samples=samples, index_sha256=index, fingerprint=fingerprint, weight=weight, repeat=repeat)


COCO, SBU = dataset("coco"), dataset("sbu")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ([COCO], [dataset("new", 120, "j")], "data.train.image_text.0 (new): samples 100 -> 120"),
        ([COCO, SBU], [COCO, dataset("sbu", index="j")], "data.train.image_text.1 (sbu): as many samples, but another index"),
        ([COCO], [dataset("coco", fingerprint="x")], "data.train.image_text.0 (coco): the same index, but other tars"),
        ([COCO, SBU], [COCO], "data.train.image_text: 2 datasets -> 1 (sbu is missing)"),
        ([COCO], [COCO, SBU], "data.train.image_text: 1 datasets -> 2 (sbu is new)"),
        ([COCO, SBU], [SBU, COCO], "data.train.image_text: the same datasets in another order, coco, sbu in the checkpoint"),
        ([dataset("coco", weight=0.5)], [dataset("coco", weight=0.7)], "data.train.image_text.0 (coco): weight 0.5 -> 0.7"),
        ([COCO], [dataset("coco", repeat=3)], "data.train.image_text.0 (coco): repeat 1 -> 3"),
    ],
)
def test_a_difference_is_named(before: Sequence[DatasetState], now: Sequence[DatasetState], told: str) -> None:
    state = DataState(steps=7, datasets={Task.IMAGE_TEXT: tuple(before)}, vocabulary="v")
    with pytest.raises(UserError) as error:
        check_same_data(state, {Task.IMAGE_TEXT: now}, "v")
    start = "cannot go on from step 7, the data are not those of the checkpoint: "
    assert str(error.value) == f"{start}{told}. Put them back, or start a new run in another run_dir"


def test_all_differences_are_named_at_once() -> None:
    state = DataState(steps=7, datasets={Task.IMAGE_TEXT: (COCO,)}, vocabulary="v")
    with pytest.raises(UserError, match=r"image_text.0 .*; data.train.text: 0 datasets -> 1 .*; data.vocab: another vocabulary"):
        check_same_data(state, {Task.IMAGE_TEXT: [dataset("coco", 9)], Task.TEXT: [SBU]}, "w")


def test_folders_may_have_been_moved() -> None:
    state = DataState(steps=7, datasets={Task.IMAGE_TEXT: (COCO,)}, vocabulary="v")
    check_same_data(state, {Task.IMAGE_TEXT: [dataset("elsewhere", fingerprint=COCO.fingerprint)]}, "v")
