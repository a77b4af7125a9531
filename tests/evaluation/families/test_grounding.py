"""The evaluation of grounding: boxes by hand, and a random model on shards in RefCOCO's layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from launchers.local import launch
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.coordinates import Box
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.record import Record, Region
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.evaluate import evaluate_untrained
from megatron_mplug2.evaluation.families.grounding import Grounded, Grounder, box_scores
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.observability.sections import SectionClock
from megatron_mplug2.training.engines import make_engine
from tests.data.corpus import Sample, picture, write_stream
from tests.data.test_grounding import SIZES, grounding_config, make_grounding_corpus
from tests.downstream.finetuning import run
from tests.evaluation.families.written import written


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grounding_corpus(tmp_path_factory.mktemp("grounding"), SIZES)


def grounded(index: int, box: Box | None, part: str = "testA") -> Grounded:
    return Grounded(index=index, phrase="it", said="", box=box, truth=(10, 10, 10, 10), part=part)


def test_scores_by_hand() -> None:
    """The true box; one that is moved by 3 of its 10 pixels, and one by 4; and none."""
    moved = [grounded(1, (13, 10, 10, 10), "testB"), grounded(2, (14, 10, 10, 10), "testB")]
    found = [grounded(0, (10, 10, 10, 10)), *moved, grounded(3, None)]
    scores = {score.name: score for score in box_scores(found)}
    assert scores["accuracy at IoU 0.5"].value == 50.0 and scores["accuracy at IoU 0.5"].chance == 100.0
    assert (scores["accuracy at IoU 0.5: testA"].value, scores["accuracy at IoU 0.5: testB"].value) == (50.0, 50.0)
    assert scores["mean IoU"].value == pytest.approx(100 * (1 + 7 / 13 + 6 / 14 + 0) / 4)


def test_each_phrase_is_asked_once_on_any_layout(corpus: Path, tmp_path: Path) -> None:
    def evaluated(size: int) -> Any:
        keys = [f"layout.data={size}", "training.global_batch=12", "training.microbatch=2"]
        config = grounding_config(corpus, tmp_path / str(size), keys)
        launch(config, evaluate_untrained)
        return written(config, Family.IMAGE_GROUNDING)

    results, lines = evaluated(1)
    assert [line["kind"] for line in lines] == ["box"] * 4 * (SIZES["testA"] + SIZES["testB"])
    names = ["accuracy at IoU 0.5", "accuracy at IoU 0.5: testA", "accuracy at IoU 0.5: testB", "mean IoU"]
    assert list(results["scores"]) == names and results["samples"] == SIZES["testA"] + SIZES["testB"]
    assert 0 < results["chance"]["accuracy at IoU 0.5"] < 50
    for size in (2, 3):
        assert evaluated(size) == (results, lines)


def count_boxes(config: RunConfig) -> None:
    engine = make_engine(config, SectionClock())
    inference, manifest = Inference(engine.stage, engine.context), open_stream(config.data, Split.TEST, Task.IMAGE_TEXT)
    with engine.evaluated():
        media = inference.encode_media(torch.zeros(2, 3, 1, 32, 32, dtype=torch.uint8), Task.IMAGE_TEXT)
        found = Grounder(inference, config, manifest).boxes([0, 1], media)
    assert [(one.index, one.phrase) for one in found] == [(0, "a dog"), (1, "a cat")]


def test_a_validation_passes_over_boxes_outside_their_picture(corpus: Path, tmp_path: Path) -> None:
    regions = [((1, 1, 9, 9), "a dog"), ((40, 1, 20, 9), "a bird"), ((0, 0, 48, 48), "a cat")]
    good, outside, whole = (Region(box=box, phrases=(phrase,)) for box, phrase in regions)
    records = [Record(regions=told, attributes={}) for told in ((good, outside), (whole,))]
    samples = [Sample(key=f"pair-{n}", media=picture(n), record=record, size=(48, 48)) for n, record in enumerate(records)]
    write_stream(tmp_path / "images", MediaKind.IMAGE, samples)
    keys = [f"data.test.image_text=[{tmp_path}/images]", "layout.data=1"]
    run(grounding_config(corpus, tmp_path / "run", keys), count_boxes)


@pytest.mark.parametrize(
    ("region", "said"),
    [
        ({"box": (1, 1, 9, 9), "phrases": ("a dog", "\ufeff")}, "an empty phrase about the box"),
        ({"box": (1, 1, 0, 9), "phrases": ("a dog",)}, r"'a dog': the box \[1, 1, 0, 9\] .* does not lie in the picture of "),
        ({"box": (1, 1, 900, 9), "phrases": ("a dog",)}, r"'a dog': the box \[1, 1, 900, 9\] .* does not lie in the picture of "),
    ],
)
def test_a_region_that_cannot_be_judged_is_told_by_its_row(corpus: Path, tmp_path: Path, region: dict[str, Any], said: str) -> None:
    good = Region(box=(1, 1, 9, 9), phrases=("a dog",))
    regions = [(good,), (good, Region(**region))]
    records = [Record(regions=told, attributes={}) for told in regions]
    samples = [Sample(key=f"pair-{number}", media=picture(number), record=record, size=(48, 48)) for number, record in enumerate(records)]
    write_stream(tmp_path / "images", MediaKind.IMAGE, samples)
    keys = [f"data.test.image_text=[{tmp_path}/images]", "layout.data=1"]
    with pytest.raises(UserError, match=rf"^data\.test\.image_text, sample 1 \(pair-1 in images/00000\.tar\): {said}"):
        launch(grounding_config(corpus, tmp_path / "run", keys), evaluate_untrained)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.json*"))
