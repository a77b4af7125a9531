"""A corpus that changes while a stage is at work on it, between a kill and the next start or between two parts: refused, not half read."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.sample import Sample
from data_tools.splits import Split
from data_tools.stages.listing import LISTING
from data_tools.stages.listing_stage import Corpus, ListingStage, Spot
from data_tools.stages.part import Part
from data_tools.stages.plan import Packing
from data_tools.stages.probe import look_into
from data_tools.stages.shard import shard
from data_tools.stages.stage import Effort, run_stage
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import jpeg
from tests.data_tools.test_webdataset_source import write_tar

FIRST, SECOND = (Effort(part=Part(index=index, count=2)) for index in (1, 2))
REFUSED = r"begun with something else \(files that are read: \w+ before, \w+ now\): choose another --out, or delete it first$"


def stage_of(source: str, annotation: Path, media: Path) -> ListingStage:
    corpus = Corpus(source=source, annotation=annotation, media=media, split=Split.TRAIN)
    return ListingStage(name="probe", corpus=corpus, settings={}, look=look_into, chunk=2)


def tar_of(path: Path, first: int) -> None:
    numbers = range(first, first + 3)
    write_tar(path, [member for number in numbers for member in ((f"{number}.jpg", jpeg(number)), (f"{number}.txt", b"a caption"))])


def documents(path: Path, first: int) -> None:
    path.write_text("".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(first, first + 3)))


def articles(path: Path, first: int) -> None:
    path.write_text("".join(f'<doc id="{number}" url="u" title="t">\nwords\n</doc>\n' for number in range(first, first + 3)))


def put_class(folder: Path, first: int) -> None:
    folder.mkdir()
    for number in range(first, first + 3):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))


FOLDERS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "webdataset": ("0000{}.tar", tar_of),
    "c4": ("part{}.json", documents),
    "wikiextractor": ("wiki_0{}", articles),
    "imagenet": ("n0{}", put_class),
}


@pytest.mark.parametrize("source", FOLDERS)
def test_a_folder_that_grows(source: str, tmp_path: Path) -> None:
    """What comes is before what was there: all chunks after it would hold other samples."""
    name, put = FOLDERS[source]
    place = tmp_path / "corpus"
    place.mkdir()
    put(place / name.format(1), 0)
    assert run_stage(stage_of(source, place, place), tmp_path / "out", FIRST) == 1
    put(place / name.format(0), 10)
    with pytest.raises(UserError, match=REFUSED):
        run_stage(stage_of(source, place, place), tmp_path / "out", SECOND)
    last = place / name.format(0)
    shutil.rmtree(last) if last.is_dir() else last.unlink()
    assert run_stage(stage_of(source, place, place), tmp_path / "out", SECOND) == 0


def test_pictures_beside_a_list_of_classes(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("n01 one\nn02 two\n")
    put_class(tmp_path / "n01", 0)
    put_class(tmp_path / "n02", 3)
    assert run_stage(stage_of("imagenet", tmp_path / "names.txt", tmp_path), tmp_path / "out", FIRST) == 1
    (tmp_path / "n01/00.jpg").write_bytes(jpeg(9))
    with pytest.raises(UserError, match=REFUSED):
        run_stage(stage_of("imagenet", tmp_path / "names.txt", tmp_path), tmp_path / "out", SECOND)


def test_a_file_of_the_same_size(tmp_path: Path) -> None:
    documents(tmp_path / "a.json", 0)
    assert run_stage(stage_of("c4", tmp_path / "a.json", tmp_path), tmp_path / "out", FIRST) == 1
    size = (tmp_path / "a.json").stat().st_size
    documents(tmp_path / "a.json", 3)
    assert (tmp_path / "a.json").stat().st_size == size
    with pytest.raises(UserError, match=REFUSED):
        run_stage(stage_of("c4", tmp_path / "a.json", tmp_path), tmp_path / "out", SECOND)


BESIDE: dict[str, tuple[dict[str, object], str]] = {
    "msrvtt": (
        {
            "videodatainfo.json": {"videos": [{"video_id": "video7", "split": "train"}], "sentences": []},
            "train_qa.json": [{"video_id": 7, "question": "what ?", "answer": "dog"}],
        },
        "dog",
    ),
    "msrvtt_retrieval": (
        {
            "MSRVTT_train.9k.csv": "video_id\nvideo7\n",
            "MSRVTT_data.json": {"sentences": [{"video_id": "video7", "caption": "a dog"}]},
            "MSRVTT_JSFUSION_test.csv": "video_id,sentence\nvideo8,another dog\n",
        },
        "dog",
    ),
    "msvd": ({"AllVideoDescriptions.txt": "-4wsuPCjDBc_5_15 a bird\n", "train_list.txt": "-4wsuPCjDBc_5_15\n"}, "5_15"),
    "msvd_qa": (
        {
            "train_qa.json": [{"video_id": 7, "question": "what ?", "answer": "bird"}],
            "youtube_mapping.txt": "-4wsuPCjDBc_5_15 vid7\n",
        },
        "5_15",
    ),
    "tgif": ({"tgif-v1.0.tsv": "http://a/b.gif\ta cat\n", "splits/val.txt": "http://a/b.gif\n"}, "b.gif"),
    "visual_genome": (
        {
            "region_descriptions.json": [{"id": 7, "regions": []}],
            "question_answers.json": [{"id": 7, "qas": [{"question": "what ?", "answer": "dog"}]}],
        },
        "dog",
    ),
    "vqav2": (
        {
            "v2_OpenEnded_mscoco_val2014_questions.json": {
                "data_subtype": "val2014",
                "questions": [{"question_id": 70, "image_id": 7, "question": "what ?"}],
            },
            "v2_mscoco_val2014_annotations.json": {
                "annotations": [{"question_id": 70, "answer_type": "other", "answers": [{"answer": "dog"}]}],
            },
        },
        "dog",
    ),
    "refcoco": ({"refs(unc).p": None, "instances.json": {"annotations": [{"id": 2, "image_id": 7, "bbox": [1, 2, 3, 4]}]}}, "3, 4"),
    "imagenet": (
        {"LOC_val_solution.csv": "ImageId,PredictionString\nval_1,n01 1 2 3 4\n", "LOC_synset_mapping.txt": "n01 tench\n"},
        "tench",
    ),
}
"""Of each source that reads files beside its annotation all of them, the annotation first; and a word of the others that is changed."""
REFS = [{"ref_id": 1, "ann_id": 2, "image_id": 7, "split": "val", "sentences": [{"sent": "left man"}]}]


@pytest.mark.parametrize(
    ("source", "number"), [(source, number) for source, (files, _) in BESIDE.items() for number in range(1, len(files))]
)
def test_a_file_beside_the_annotation(source: str, number: int, tmp_path: Path) -> None:
    files, word = BESIDE[source]
    place = tmp_path / "corpus"
    (place / "splits").mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_text(content if isinstance(content, str) else json.dumps(content))
    names = list(files)
    if source == "refcoco":
        (place / names[0]).write_bytes(pickle.dumps(REFS))
    stage = stage_of(source, place / names[0], tmp_path / "media")
    assert run_stage(stage, tmp_path / "out", Effort()) == run_stage(stage, tmp_path / "out", Effort()) == 0
    changed = place / names[number]
    changed.write_text(changed.read_text().replace(word, word[::-1]))
    with pytest.raises(UserError, match=REFUSED):
        run_stage(stage, tmp_path / "out", Effort())


def test_shards_of_a_file_that_changed(tmp_path: Path) -> None:
    documents(tmp_path / "a.json", 0)
    corpus = Corpus(source="c4", annotation=tmp_path / "a.json", media=tmp_path, split=Split.TRAIN)
    assert shard(corpus, tmp_path / "out", Packing(), Effort()) == 0
    assert shard(corpus, tmp_path / "out", Packing(), Effort()) == 0
    os.utime(tmp_path / "a.json", (1, 1))
    with pytest.raises(UserError, match=REFUSED):
        shard(corpus, tmp_path / "out", Packing(), Effort())


def test_a_change_during_the_work(tmp_path: Path) -> None:
    """It is not finished, and the line says so."""
    documents(tmp_path / "a.json", 0)

    def look(sample: Sample, spot: Spot) -> Sample:
        documents(tmp_path / "a.json", 7)
        return look_into(sample, spot)

    corpus = Corpus(source="c4", annotation=tmp_path / "a.json", media=tmp_path, split=Split.TRAIN)
    stage = ListingStage(name="probe", corpus=corpus, settings={}, look=look)
    with pytest.raises(UserError, match=REFUSED):
        run_stage(stage, tmp_path / "out", Effort())
    assert not (tmp_path / "out" / LISTING).exists()


def test_a_folder_that_holds_the_stage_s_own(tmp_path: Path) -> None:
    """Files that a source does not read may come and go."""
    tar_of(tmp_path / "00000.tar", 0)
    stage = stage_of("webdataset", tmp_path, tmp_path)
    assert run_stage(stage, tmp_path / "out", FIRST) == 1
    assert run_stage(stage, tmp_path / "out", SECOND) == 0
