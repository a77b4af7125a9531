"""Readers of picture corpora with questions, regions and classes: small files in their real layouts."""

import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from data_tools.sample import Fault, Reason
from data_tools.sources.plain_pickle import read_plain_pickle
from data_tools.sources.registry import source
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.record import Region
from megatron_mplug2.errors import UserError
from tests.data_tools.test_more_sources import captions, lines, path_of, read


def test_flickr30k(tmp_path: Path) -> None:
    contents = '10.jpg#0\tTwo "young" guys .\n10.jpg#1\tTwo men .\n36.jpg#0\tA man\n10.jpg#2\tThey .\n'
    samples = read("flickr30k", tmp_path / "results_20130124.token", contents)
    assert captions(samples) == {"10": ('Two "young" guys .', "Two men .", "They ."), "36": ("A man",)}
    assert path_of(samples[0]) == tmp_path / "10.jpg" and {sample.stream for sample in samples} == {Task.IMAGE_TEXT}


VQA_QUESTIONS = {
    "data_subtype": "val2014",
    "questions": [
        {"image_id": 7, "question": "Is it red?", "question_id": 7000},
        {"image_id": 8, "question": "How many?", "question_id": 8000},
        {"image_id": 7, "question": "What is it?", "question_id": 7001},
    ],
}


def vqa_annotation(number: int, kind: str, *said: str) -> dict[str, Any]:
    answers = [{"answer": answer, "answer_confidence": "yes", "answer_id": place} for place, answer in enumerate(said, 1)]
    return {"question_id": number, "answer_type": kind, "multiple_choice_answer": said[0], "answers": answers}


def test_vqav2(tmp_path: Path) -> None:
    path = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    with pytest.raises(UserError, match=r"put v2_mscoco_val2014_annotations\.json beside it"):
        read("vqav2", path, VQA_QUESTIONS)
    given = ("no", *["yes"] * 8, "no")
    annotations = [vqa_annotation(7001, "other", "cat", "dog"), vqa_annotation(7000, "yes/no", *given), vqa_annotation(8000, "number", "2")]
    beside = tmp_path / "v2_mscoco_val2014_annotations.json"
    beside.write_text(json.dumps({"annotations": annotations}))
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014/COCO_val2014_000000000007.jpg").touch()
    (tmp_path / "000000000008.jpg").touch()
    samples = read("vqav2", path, VQA_QUESTIONS)
    assert [path_of(sample) for sample in samples] == [tmp_path / "val2014/COCO_val2014_000000000007.jpg", tmp_path / "000000000008.jpg"]
    first, second = samples[0].record.questions
    assert (first.question, first.answer, first.kind, first.answers) == ("Is it red?", "yes", "yes/no", given)
    assert (second.answer, second.answers) == ("cat", ("cat", "dog"))
    beside.write_text(json.dumps({"annotations": annotations[:2]}))
    with pytest.raises(UserError, match=r"questions\.json is not in the layout of `vqav2` .*question 8000 has no answers"):
        read("vqav2", path, VQA_QUESTIONS)
    with pytest.raises(UserError, match="not one inside --media"):
        read("vqav2", path, VQA_QUESTIONS | {"data_subtype": "../val2014"})


REFS = [
    {"ref_id": 1, "ann_id": 2, "image_id": 7, "split": "testA", "sentences": [{"sent": "left man", "raw": "left MAN"}, {"sent": "him"}]},
    {"ref_id": 2, "ann_id": 3, "image_id": 8, "split": "train", "sentences": [{"sent": "dog"}]},
    {"ref_id": 3, "ann_id": 4, "image_id": 7, "split": "testA", "sentences": [{"sent": "the other"}]},
]
INSTANCES = {"annotations": [{"id": n, "image_id": 7, "bbox": [n, 2.5, 30, 40]} for n in (2, 3, 4)], "images": []}


def write_refs(folder: Path, pickled: bytes) -> Path:
    (folder / "instances.json").write_text(json.dumps(INSTANCES))
    (folder / "refs(unc).p").write_bytes(pickled)
    return folder / "refs(unc).p"


def python2(pickled: bytes) -> bytes:
    """Of protocol 0, with texts as Python 2 wrote its bytes."""
    return re.sub(rb"V([^\n]*)\n", rb"S'\1'\n", pickled)


@pytest.mark.parametrize("pickled", [python2(pickle.dumps(REFS, protocol=0)), pickle.dumps(REFS, protocol=2)])
def test_refcoco(tmp_path: Path, pickled: bytes) -> None:
    samples = list(source("refcoco", Split.TRAIN).samples(write_refs(tmp_path, pickled), tmp_path))
    assert [(sample.split, sample.record.attributes) for sample in samples] == [
        (Split.TEST, {"split": "testA"}),
        (Split.TRAIN, {"split": "train"}),
    ]
    assert samples[0].record.regions == (
        Region(box=(2.0, 2.5, 30.0, 40.0), phrases=("left man", "him")),
        Region(box=(4.0, 2.5, 30.0, 40.0), phrases=("the other",)),
    )
    assert path_of(samples[0]) == tmp_path / "train2014/COCO_train2014_000000000007.jpg"


@pytest.mark.parametrize(("bbox", "told"), [([600, 2, 50, 40], "[600, 2, 50, 40]"), ([3, 2, 0, 40], "[3, 2, 0, 40]")])
def test_a_box_outside_its_picture_is_told_by_its_row(tmp_path: Path, bbox: list[float], told: str) -> None:
    """Where phrases speak of it: COCO has boxes without a size that none speaks of."""
    path = write_refs(tmp_path, pickle.dumps(REFS))
    boxes = [row | {"bbox": bbox} if row["id"] == 3 else row for row in INSTANCES["annotations"]]
    images = [{"id": 7, "width": 640, "height": 480}]
    (tmp_path / "instances.json").write_text(json.dumps({"annotations": boxes, "images": images}))
    with pytest.raises(UserError, match=r"refs\(unc\)\.p is not in the layout .*annotation 3: the box .* the picture of 640x480") as raised:
        list(source("refcoco", Split.TRAIN).samples(path, tmp_path))
    assert told in str(raised.value)
    write_refs(tmp_path, pickle.dumps([REFS[0], REFS[2]]))
    (tmp_path / "instances.json").write_text(json.dumps({"annotations": boxes, "images": images}))
    assert len(list(source("refcoco", Split.TRAIN).samples(path, tmp_path))) == 1


class Hostile:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    old = b"(S'" + bytes(ran) + b"'\nios\nmkdir\n."
    for pickled in (pickle.dumps(Hostile(ran), protocol=0), pickle.dumps([Hostile(ran)]), old):
        with pytest.raises(UserError, match=r"refs\(unc\)\.p is no pickle of plain data .*names the code (posix|os)\.mkdir"):
            read_plain_pickle(write_refs(tmp_path, pickled))
        assert not ran.exists()


@pytest.mark.parametrize("pickled", [b"", b"text", pickle.dumps(REFS)[:-9], b"\x80\x04\x8c\x04\xff\xff\xff\xff.", b"}."])
def test_no_refs(tmp_path: Path, pickled: bytes) -> None:
    path = write_refs(tmp_path, pickled)
    with pytest.raises(UserError, match=r"refs\(unc\)\.p is (no pickle|not in the layout of `refcoco`)") as raised:
        list(source("refcoco", Split.TRAIN).samples(path, tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"split": "dev"}, "'dev', not one of"), ({"ann_id": 9}, "9 is not in instances"), ({"image_id": "../7"}, "image_id")],
)
def test_refs_that_cannot_be(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    path = write_refs(tmp_path, pickle.dumps([REFS[0] | fields]))
    with pytest.raises(UserError, match=rf"not in the layout of `refcoco` .*{told}"):
        list(source("refcoco", Split.TRAIN).samples(path, tmp_path))


def test_snli_ve(tmp_path: Path) -> None:
    row = {"Flickr30K_ID": "4705", "pairID": "4705.jpg#2r1n", "gold_label": "neutral", "sentence1": "Two boys", "sentence2": "They swim."}
    (sample,) = read("snli_ve", tmp_path / "snli_ve_train.jsonl", lines(row))
    assert (sample.key, path_of(sample)) == ("4705.jpg#2r1n", tmp_path / "4705.jpg")
    assert (sample.record.captions, sample.record.label) == (("They swim.",), "neutral")


def test_nlvr2(tmp_path: Path) -> None:
    for name in ("images/train/37/train-101-0-img0.png", "dev-5-1-img0.png", "dev/dev-5-1-img1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    train = {"identifier": "train-101-0-2", "directory": 37, "sentence": "One bird.", "label": "False"}
    dev = {"identifier": "dev-5-1-0", "sentence": "Two birds.", "label": "True"}
    samples = read("nlvr2", tmp_path / "train.json", lines(train, dev))
    assert [(sample.record.captions, sample.record.label) for sample in samples] == [(("One bird.",), "False"), (("Two birds.",), "True")]
    assert path_of(samples[0]) == tmp_path / "images/train/37/train-101-0-img0.png"
    assert path_of(samples[1]) == tmp_path / "dev-5-1-img0.png"
    assert samples[1].second is not None and samples[1].second.path == tmp_path / "dev/dev-5-1-img1.png"


def test_imagenet(tmp_path: Path) -> None:
    for name in ("n01/b.JPEG", "n01/a.JPEG", "n02/c.JPEG"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    names = tmp_path / "LOC_synset_mapping.txt"
    samples = read("imagenet", names, "n01 tench, Tinca tinca\nn02 crane\nn03 crane\n", tmp_path / "train")
    assert [(sample.key, sample.record.label, sample.record.attributes) for sample in samples] == [
        ("a", "tench, Tinca tinca", {"synset": "n01"}),
        ("b", "tench, Tinca tinca", {"synset": "n01"}),
        ("c", "crane", {"synset": "n02"}),
        ("n03", "crane", {"synset": "n03"}),
    ]
    assert [sample.fault for sample in samples] == [None] * 3 + [
        Fault(reason=Reason.MISSING, detail=f"there is no folder {tmp_path}/train/n03")
    ]
    solution = tmp_path / "LOC_val_solution.csv"
    (sample,) = read("imagenet", solution, "ImageId,PredictionString\nval_1,n03 85 1 499 272 n03 1 1 2 2 \n")
    assert (path_of(sample), sample.record.label) == (tmp_path / "val_1.JPEG", "crane")
    with pytest.raises(UserError, match=r"the synset 'n04' of val_1 is not in LOC_synset_mapping\.txt"):
        read("imagenet", solution, "ImageId,PredictionString\nval_1,n04 85 1 499 272\n")
    folders = source("imagenet", Split.TEST).samples(tmp_path / "train", tmp_path)
    assert [sample.record.label for sample in folders] == ["n01", "n01", "n02"]


def test_a_class_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/classes/caf\xe9"))
    folder.mkdir(parents=True)
    (folder / "a.jpg").touch()
    with pytest.raises(UserError, match=r"^the name of the folder '.*caf\\udce9' is not UTF-8, .*: rename it$"):
        list(source("imagenet", Split.TRAIN).samples(tmp_path / "classes", tmp_path))


WRONG = {
    "flickr30k": ["1.jpg a cat\n", "1.jpg#0\ta\tb\n", "../1.jpg#0\ta cat\n", "1.jpg#x\ta cat\n"],
    "snli_ve": ["{", '{"pairID": "a"}', '{"pairID": "a", "Flickr30K_ID": "../1", "sentence2": "b", "gold_label": "neutral"}'],
    "nlvr2": [
        "[]",
        '{"identifier": "a-1-0-0", "sentence": "b", "label": true}',
        '{"identifier": "../a", "sentence": "b", "label": "True"}',
    ],
    "imagenet": ["n01440764\n", "../n01 tench\n"],
}


@pytest.mark.parametrize(("name", "contents"), [(name, contents) for name, many in WRONG.items() for contents in many])
def test_wrong_layout_is_one_line(tmp_path: Path, name: str, contents: str) -> None:
    with pytest.raises(UserError, match=f"annotation is not in the layout of `{name}`") as raised:
        read(name, tmp_path / "annotation", contents)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [*WRONG, "vqav2", "refcoco"])
def test_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        list(source(name, Split.TRAIN).samples(tmp_path / "nowhere", tmp_path))
