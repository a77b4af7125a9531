"""On real folders of real media: what an evaluation writes, that no layout changes it, and that every sample counts once."""

import base64
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from launchers.local import launch
from megatron_mplug2.checkpoint import store
from megatron_mplug2.checkpoint.commit import Retention
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.manifest import MediaKind
from megatron_mplug2.data.record import Question
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation import evaluate as evaluation
from megatron_mplug2.evaluation import model
from megatron_mplug2.evaluation.samples import ShownSample, chosen
from tests.data.corpus import Sample, clip, make_config, pair, picture, write_corpus, write_stream

PICTURES, CLIPS = 21, 11
BAD = "pair-0004"


def with_motion(sample: Sample, number: int) -> Sample:
    """With a question about motion, and attributes that its captions name."""
    way, back = (("left", "right"), ("up", "down"))[number % 2]
    asked = Question(question="what moves ?", answer=way, kind="motion", reversed_answer=back)
    told = {"color": "red", "shape": "circle", "motion": way}
    caption = f"a red circle moves {way}"
    record = replace(sample.record, captions=(caption,), questions=(*sample.record.questions, asked), attributes=told)
    return replace(sample, record=record)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 pictures, one of them cut off, and 11 clips with questions about motion."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    pictures = [pair(number, picture(number)) for number in range(PICTURES)]
    pictures[4] = replace(pictures[4], media=pictures[4].media[:200])
    assert pictures[4].key == BAD
    write_stream(folder / "test/image_text", MediaKind.IMAGE, pictures)
    clips = [with_motion(pair(number, clip(number), questions=1), number) for number in range(CLIPS)]
    write_stream(folder / "test/video_text", MediaKind.VIDEO, clips)
    return folder


def config_of(corpus: Path, run_dir: Path, **changes: Any) -> RunConfig:
    folders = {stream: [str(corpus / "test" / stream)] for stream in ("image_text", "video_text")}
    return make_config(corpus, run_dir, data__test=folders, model__init_std=0.2, **changes)


def written(config: RunConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    results = json.loads((config.run_dir / evaluation.UNTRAINED_NAME).read_text())
    del results["config"]
    lines = (config.run_dir / evaluation.UNTRAINED_PREDICTIONS_NAME).read_text().splitlines()
    return results, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def one_rank(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Evaluated."""
    config = config_of(corpus, tmp_path_factory.mktemp("one"))
    launch(config, evaluation.evaluate_untrained)
    return config


@pytest.fixture(scope="module")
def reference(one_rank: RunConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return written(one_rank)


def test_everything_is_measured_and_every_sample_once(reference: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    results, lines = reference
    retrieval = results["retrieval"]
    assert (retrieval["image"]["t2v"]["gallery"], retrieval["video"]["v2t"]["gallery"]) == (PICTURES - 1, 2)
    assert retrieval["image"]["t2v"]["chance_r1"] == pytest.approx(100 / (PICTURES - 1))
    assert retrieval["video"]["t2v"]["chance_r1"] == pytest.approx(100 * (6 * 6 + 5 * 5) / CLIPS**2)
    assert retrieval["video"]["t2v"]["r10"] == 100.0
    assert list(results["left_out"]) == [BAD]
    assert results["qa"]["chance_motion"] == 50.0
    assert 0.0 <= results["caption"]["attributes_right"] < 100.0
    assert [line["index"] for line in lines if line["kind"] == "caption"] == list(range(CLIPS))
    asked = [(line["index"], line["question"]["kind"]) for line in lines if line["kind"] == "answer"]
    of_pictures = [(index, "test") for index in range(PICTURES) if index != 4 for _ in range(2)]
    assert asked == of_pictures + [(index, kind) for index in range(CLIPS) for kind in ("test", "motion")]
    for line in lines:
        if line["kind"] == "answer":
            about_motion = line["question"]["kind"] == "motion"
            assert (line["said_reversed"] is not None, line["said_single_frame"] is not None) == (about_motion, about_motion)
    assert any(line["said"] for line in lines), "a random model says something"


def test_a_few_samples_can_be_shown_without_the_corpus(one_rank: RunConfig) -> None:
    """Each as the predictions and the recalls tell of it."""
    results, lines = written(one_rank)
    samples = (one_rank.run_dir / evaluation.UNTRAINED_SAMPLES_NAME).read_text().splitlines()
    shown = [ShownSample.model_validate_json(line) for line in samples]
    pictures, clips = ([one for one in shown if one.task is task] for task in (Task.IMAGE_TEXT, Task.VIDEO_TEXT))
    assert [one.index for one in pictures] == sorted(chosen(PICTURES) - {4}) and [one.index for one in clips] == list(range(CLIPS))
    said = {line["index"]: line["said"] for line in lines if line["kind"] == "caption"}
    assert [(one.said, len(one.captions)) for one in clips] == [(said[one.index], 1) for one in clips]
    assert {one.said for one in pictures} == {None}
    assert all(one.answers[1].said_reversed is not None for one in clips)
    firsts = 100 * sum(one.media_place == 1 for one in clips) / CLIPS
    assert firsts == pytest.approx(results["retrieval"]["video"]["v2t"]["r1"])
    assert all(one.media_place > 1 or one.found in one.captions for one in clips)
    frame = Image.open(io.BytesIO(base64.b64decode(clips[0].frames[0])))
    assert (frame.format, frame.size, len(clips[0].frames), len(pictures[0].frames)) == ("JPEG", (clips[0].resolution,) * 2, 3, 1)


LAYOUTS = {
    "dp2": {"layout__data": 2},
    "tp2": {"layout__tensor": 2},
    "tp2+sp": {"layout__tensor": 2, "layout__sequence_parallel": True},
    "dp2 tp2": {"layout__data": 2, "layout__tensor": 2},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_changes_what_is_found(
    layout: str, corpus: Path, tmp_path: Path, reference: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    config = config_of(corpus, tmp_path, **LAYOUTS[layout])
    launch(config, evaluation.evaluate_untrained)
    assert written(config) == reference


def save_changed(config: RunConfig) -> None:
    """A checkpoint after step 3 whose weights are those of another seed."""
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 9})})
    inference, weights = model.built(other)
    state = RunState(step=3, config=resolved_yaml(config), data={})
    store.save(store.checkpoint_folder(config.run_dir), state, weights, None, inference.context.topology, Retention(last=1))


def test_the_checkpoint_is_what_is_evaluated(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = config_of(corpus, tmp_path, layout__data=2)
    launch(config, save_changed)
    capfd.readouterr()
    launch(config, evaluation.evaluate)
    (said,) = capfd.readouterr().out.splitlines()
    other = config_of(corpus, tmp_path / "other", training__seed=9)
    launch(other, evaluation.evaluate_untrained)
    results = json.loads((tmp_path / evaluation.RESULTS_NAME).read_text())
    assert (results["step"], results["config"]) == (3, evaluation.config_digest(config))
    image, video = ([results["retrieval"][kind][way]["r1"] for way in ("t2v", "v2t")] for kind in ("image", "video"))
    recalls = f"picture R@1 {image[0]:.1f} / {image[1]:.1f} %, clip R@1 {video[0]:.1f} / {video[1]:.1f} %"
    others = f"questions {results['qa']['all']:.1f} %, captions CIDEr {results['caption']['cider']:.2f} of 10"
    assert said == f"wrote {tmp_path / evaluation.RESULTS_NAME}: {recalls}, {others}"
    expected, lines = written(other)
    assert {key: results[key] for key in ("retrieval", "qa", "caption")} == {key: expected[key] for key in ("retrieval", "qa", "caption")}
    assert [json.loads(line) for line in (tmp_path / evaluation.PREDICTIONS_NAME).read_text().splitlines()] == lines
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_errors_say_what_to_do(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"layout\.pipeline=2: .*set layout\.pipeline=1"):
        launch(config_of(corpus, tmp_path, layout__pipeline=2), evaluation.evaluate)
    with pytest.raises(UserError, match=re.escape(str(store.checkpoint_folder(tmp_path)))):
        launch(config_of(corpus, tmp_path), evaluation.evaluate)
    with pytest.raises(UserError, match=r"data\.test"):
        launch(make_config(corpus, tmp_path, data__test={}), evaluation.evaluate_untrained)
    assert not list(tmp_path.glob("*.json*"))


def test_folders_are_looked_at_before_the_first_is_evaluated(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Which takes hours of a cluster."""
    folders = {"image_text": [str(corpus / "test/image_text")], "video_text": [str(corpus / "gone")]}
    with pytest.raises(UserError, match="gone has no manifest"):
        launch(make_config(corpus, tmp_path, data__test=folders), evaluation.evaluate_untrained)
    assert "encode" not in capfd.readouterr().err


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    """A disk that is full at the last one leaves an older evaluation as it was, and nothing beside it."""
    first, last = tmp_path / "predictions.jsonl", tmp_path / "evaluation.json"
    evaluation.write_files({first: "old", last: "old"})
    (tmp_path / f".evaluation.json.{os.getpid()}").mkdir()  # in the way of the last one
    with pytest.raises(IsADirectoryError):
        evaluation.write_files({first: "new", last: "new"})
    (tmp_path / f".evaluation.json.{os.getpid()}").rmdir()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"predictions.jsonl": "old", "evaluation.json": "old"}
