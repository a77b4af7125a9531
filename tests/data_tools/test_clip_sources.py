"""Readers of clip corpora: small files in their real layouts, and real clips with questions only."""

import json
from pathlib import Path

import pytest

from data_tools.sample import Sample
from data_tools.sources.registry import source
from data_tools.splits import Split
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.record import Question
from megatron_mplug2.errors import UserError
from tests.data_tools.sharding import sharded
from tests.data_tools.test_more_sources import captions, path_of, read
from tests.shared import SHARED, needs_shared


def test_msrvtt_retrieval(tmp_path: Path) -> None:
    videos = [{"video_id": f"video{n}", "split": "train"} for n in (1, 2, 9)]
    sentences = [{"video_id": f"video{n}", "caption": said} for n, said in ((2, "a"), (1, "b"), (2, "c"), (9, "d"), (9, "e"))]
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text('key,vid_key,video_id,sentence\r\nret0,msr9,video9,"one, chosen"\r\n')
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/video2.webm").touch()
    samples = read("msrvtt_retrieval", tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo2\nvideo1\n", tmp_path / "clips")
    assert captions(samples) == {"video2": ("a", "c"), "video1": ("b",), "video9": ("one, chosen",)}
    assert [sample.split for sample in samples] == [Split.TRAIN, Split.TRAIN, Split.TEST]
    assert [path_of(sample) for sample in samples[:2]] == [tmp_path / "clips/video2.webm", tmp_path / "clips/video1.mp4"]
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("key,video_id,sentence\nret0,../video9,a\n")
    with pytest.raises(UserError, match=r"JSFUSION_test\.csv is not in the layout of `msrvtt_retrieval` .*not one inside --media"):
        read("msrvtt_retrieval", tmp_path / "MSRVTT_train.7k.csv", "video_id\nvideo1\n")


def asked(sample: Sample) -> list[tuple[str, str]]:
    return [(question.question, question.answer) for question in sample.record.questions]


QA = [{"id": n, "video_id": video, "question": f"q{n}?", "answer": f"a{n}"} for n, video in enumerate((7, 8, 7))]


def test_questions_of_msrvtt_and_msvd(tmp_path: Path) -> None:
    samples = read("msrvtt_qa", tmp_path / "train_qa.json", QA)
    assert [(sample.key, asked(sample)) for sample in samples] == [("video7", [("q0?", "a0"), ("q2?", "a2")]), ("video8", [("q1?", "a1")])]
    (tmp_path / "youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid7\n-7KMZQEsJW4_205_208 vid9\n")
    (tmp_path / "-4wsuPCjDBc_5_15.mp4").touch()
    samples = read("msvd_qa", tmp_path / "train_qa.json", QA)
    assert [path_of(sample) for sample in samples] == [tmp_path / "-4wsuPCjDBc_5_15.mp4", tmp_path / "vid8.avi"]
    assert asked(samples[0]) == [("q0?", "a0"), ("q2?", "a2")] and not samples[0].record.captions
    (tmp_path / "youtube_mapping.txt").write_text("../x vid7\n")
    with pytest.raises(UserError, match=r"youtube_mapping\.txt is not in the layout of `msvd_qa`"):
        read("msvd_qa", tmp_path / "train_qa.json", QA)


def test_msvd(tmp_path: Path) -> None:
    head = "Video descriptions\n\nEach line has a clip's name and a description.\n\n"
    contents = (
        head + "-4wsuPCjDBc_5_15 a squirrel eats\n-7KMZQEsJW4_205_208 a girl\n-4wsuPCjDBc_5_15 a chipmunk\n_8y1Q0rA3n8_108_115 a man\n"
    )
    path = tmp_path / "AllVideoDescriptions.txt"
    whole = read("msvd", path, contents)
    assert captions(whole)["-4wsuPCjDBc_5_15"] == ("a squirrel eats", "a chipmunk") and {each.split for each in whole} == {Split.VALIDATION}
    (tmp_path / "train_list.txt").write_text("-7KMZQEsJW4_205_208\n")
    (tmp_path / "test_list.txt").write_text("-4wsuPCjDBc_5_15\n")
    (tmp_path / "-4wsuPCjDBc_5_15.avi").touch()
    samples = read("msvd", path, contents)
    assert [(sample.split, path_of(sample)) for sample in samples] == [
        (Split.TEST, tmp_path / "-4wsuPCjDBc_5_15.avi"),
        (Split.TRAIN, tmp_path / "-7KMZQEsJW4_205_208.avi"),
    ]


def test_tgif(tmp_path: Path) -> None:
    urls = [f"https://38.media.tumblr.com/{n}/tumblr_{n}_500.gif" for n in range(3)]
    contents = f"{urls[0]}\ta man is glaring\n{urls[1]}\ta cat\n{urls[2]}\ta dog\n{urls[1]}\tit\n"
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text(urls[0] + "\n")
    (tmp_path / "splits/test.txt").write_text(urls[1] + "\n")
    samples = read("tgif", tmp_path / "tgif-v1.0.tsv", contents)
    assert captions(samples) == {"tumblr_0_500": ("a man is glaring",), "tumblr_1_500": ("a cat", "it")}
    assert [sample.split for sample in samples] == [Split.TRAIN, Split.TEST]
    assert path_of(samples[0]) == tmp_path / "tumblr_0_500.gif"


def test_tgif_qa(tmp_path: Path) -> None:
    head = "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\n"
    contents = head + "tumblr_a\twhat is it ?\tcookie\t0\tF1\t1\ta cookie .\ntumblr_a\twhat color ?\tred\t2\tF2\t1\ta red one .\n"
    (sample,) = read("tgif_qa", tmp_path / "Test_frameqa_question.csv", contents)
    assert sample.record.questions[1] == Question(question="what color ?", answer="red", kind="color")
    assert path_of(sample) == tmp_path / "tumblr_a.gif"


def test_didemo(tmp_path: Path) -> None:
    (tmp_path / "54@N00_2_27.mov").touch()
    row = {"annotation_id": 7, "video": "54@N00_2_27.avi", "description": "car exits", "num_segments": 6, "dl_link": "https://a"}
    rows = [row | {"times": [[0, 0], [4, 5], [4, 5], [1, 1]]}, row | {"annotation_id": 8, "description": "end", "times": [[2, 2], [3, 3]]}]
    samples = read("didemo", tmp_path / "train_data.json", rows)
    assert captions(samples) == {"54@N00_2_27_7": ("car exits",), "54@N00_2_27_8": ("end",)}
    assert [sample.record.span_s for sample in samples] == [(20.0, 30.0), (10.0, 15.0)]
    assert {path_of(sample) for sample in samples} == {tmp_path / "54@N00_2_27.mov"}


def test_lsmdc(tmp_path: Path) -> None:
    names = [f"0001_American_Beauty_00.00.5{n}.926-00.00.54.129" for n in range(2)]
    (tmp_path / "0001_American_Beauty").mkdir()
    (tmp_path / f"0001_American_Beauty/{names[0]}.avi").touch()
    (tmp_path / f"{names[1]}.mp4").touch()
    times = "00.00.51.926\t00.00.54.129\t00.00.51.926\t00.00.54.129"
    contents = "".join(f"{name}\t{times}\t{said}\n" for name, said in ((names[0], "SOMEONE looks up."), (names[1], "b"), (names[0], "c")))
    samples = read("lsmdc", tmp_path / "LSMDC16_annos_training.csv", contents)
    assert captions(samples) == {names[0]: ("SOMEONE looks up.", "c"), names[1]: ("b",)}
    assert [path_of(sample) for sample in samples] == [tmp_path / f"0001_American_Beauty/{names[0]}.avi", tmp_path / f"{names[1]}.mp4"]


def test_kinetics(tmp_path: Path) -> None:
    for name in ("air drumming/-nQ_000104_000114.mp4", "val/b_000000_000010.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    rows = 'label,youtube_id,time_start,time_end,split,is_cc\nair drumming,-nQ,104,114,train,0\n"a, b",b,0,10,val,0\n'
    samples = read("kinetics", tmp_path / "train.csv", rows)
    assert [(sample.split, sample.record.label) for sample in samples] == [(Split.TRAIN, "air drumming"), (Split.VALIDATION, "a, b")]
    assert [path_of(sample) for sample in samples] == [
        tmp_path / "air drumming/-nQ_000104_000114.mp4",
        tmp_path / "val/b_000000_000010.mp4",
    ]
    (sample,) = read("kinetics", tmp_path / "test.csv", "youtube_id,time_start,time_end,split\nc,1,11,test\n")
    assert (sample.split, sample.record.label, path_of(sample)) == (Split.TEST, None, tmp_path / "c_000001_000011.mp4")


def test_ssv2(tmp_path: Path) -> None:
    row = {"id": "78687", "label": "holding potato next to rub", "template": "Holding [something] next to [something]", "placeholders": []}
    sample, test = read("ssv2", tmp_path / "something-something-v2-train.json", [row, {"id": "1"}])
    assert (sample.record.captions, sample.record.label) == (("holding potato next to rub",), "Holding something next to something")
    assert path_of(sample) == tmp_path / "78687.webm" and test.record.label is None and sample.stream is Task.VIDEO_TEXT


HUGE = json.dumps([{"annotation_id": 1, "video": "a.avi", "description": "b", "times": [[0, 10**400]]}])
"""A number that no float holds."""
WRONG = {
    "msrvtt_qa": ["{", '{"a": 1}', '[{"video_id": "7", "question": "a?", "answer": "b"}]', '[{"video_id": 7, "question": "a?"}]'],
    "msvd_qa": ["[7]", '[{"video_id": 7, "question": null, "answer": "b"}]'],
    "msrvtt_retrieval": ["key\nvideo1\n", "video_id\n../video1\n"],
    "msvd": ["a man\n", "-4wsuPCjDBc_5_15 a\nsomething else\n"],
    "tgif": ["a\n", "https://a/b.gif\ta\tb\n", "https://a/b\0.gif\ta\n"],
    "tgif_qa": ["gif_name\tquestion\n", "gif_name\tquestion\tanswer\ttype\na\tb\tc\n", "gif_name\tquestion\tanswer\ttype\n../a\tb\tc\t0\n"],
    "didemo": ["{}1", '[{"video": "a.avi"}]', '[{"annotation_id": 1, "video": "a.avi", "description": "b", "times": [[3, 2]]}]', HUGE],
    "lsmdc": ["a\tb\n", "../../a_1\t0\t0\t0\t0\tb\n"],
    "kinetics": ["label,youtube_id\na,b\n", "label,youtube_id,time_start,time_end,split\na,b,x,2,train\n"],
    "ssv2": ['{"a": 1}', '[{"id": 7}]', '[{"id": "../7", "label": "a", "template": "b"}]', '[{"id": "7", "label": "a"}]'],
}


@pytest.mark.parametrize(("name", "contents"), [(name, contents) for name, many in WRONG.items() for contents in many])
def test_wrong_layout_is_one_line(tmp_path: Path, name: str, contents: str) -> None:
    with pytest.raises(UserError, match=rf"annotation is not (in the layout of `{name}`|JSON)") as raised:
        read(name, tmp_path / "annotation", contents)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", WRONG)
def test_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        list(source(name, Split.TRAIN).samples(tmp_path / "nowhere", tmp_path))


@needs_shared
def test_real_questions_without_captions(tmp_path: Path) -> None:
    assert SHARED is not None
    place = SHARED / "corpora/real/video"
    rows = json.loads((place / "qa.json").read_text())
    samples = list(source("msrvtt_qa", Split.TRAIN).samples(place / "qa.json", place / "videos"))
    assert [each for sample in samples for each in asked(sample)] == [(row["question"], row["answer"]) for row in rows]
    assert all(sample.media and sample.media.path.is_file() for sample in samples)
    (tmp_path / "few.json").write_text(json.dumps([row for row in rows if row["video_id"] == 0]))
    report = sharded("msrvtt_qa", tmp_path / "few.json", place / "videos", tmp_path / "out")
    assert report.written == {"train/video_text": 1} and not report.left_out
    record = Manifest.load(tmp_path / "out/train/video_text").record(0)
    assert not record.captions and record.questions[0].answer == "hat"
