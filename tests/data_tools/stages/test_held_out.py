"""What is found of a test set in what is learned from, however either of them is kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_tools.sample import Sample
from data_tools.sources.registry import source
from data_tools.splits import Split
from data_tools.stages.choices import Duplicates
from data_tools.stages.encode import Recipe
from data_tools.stages.stage import Effort, run_stage
from data_tools.stages.transcode import transcode_stage
from data_tools.verify import stream_folders
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import faults, image, jpeg, listed, listing_corpus, noise_clip, packed, text, video
from tests.data_tools.stages.test_filter import filter_stage

IN_TEST_SET = "stands in a test set"


def left_out(listing: Path, test: Path, out: Path, duplicates: Duplicates = Duplicates.KEEP) -> dict[str, str]:
    assert run_stage(filter_stage(listing, (test,), duplicates=duplicates), out, Effort()) == 0
    found = faults(out)
    shutil.rmtree(out)
    return found


def both_ways(folder: Path, train: Path, test: Path) -> list[dict[str, str]]:
    """What is left out by the test set as a listing, and as shards."""
    packed(test, folder / "test shards")
    return [left_out(train, place, folder / "filtered") for place in (test, folder / "test shards")]


def put(folder: Path, *samples: Sample) -> Path:
    folder.mkdir(exist_ok=True)
    return listed(folder, *samples)


def transcoded(listing: Path, out: Path, short_side: int) -> Path:
    assert run_stage(transcode_stage(listing_corpus(listing), Recipe(short_side=short_side)), out, Effort()) == 0
    return out


def pair_of(first: Sample, second: Sample) -> Sample:
    return replace(first, key=f"{first.key}+{second.key}", second=second.media)


def test_media_that_were_made_anew(tmp_path: Path) -> None:
    """Other bytes of the same look, of a clip and of a picture."""
    clips = [video(tmp_path / f"clip{seed}.mp4", noise_clip(seed)) for seed in range(3)]
    stills = [image(tmp_path / f"picture{seed}.jpg", jpeg(seed, (96, 96))) for seed in range(3)]
    train = put(tmp_path / "train", *clips, *stills)
    test = put(tmp_path / "test", *(replace(sample, split=Split.TEST) for sample in (clips[2], stills[1])))
    small = transcoded(test, tmp_path / "small", 48)
    expected = {"clip2": IN_TEST_SET, "picture1": IN_TEST_SET}
    assert both_ways(tmp_path, train, small) == [expected] * 2
    assert both_ways(tmp_path / "train", transcoded(train, tmp_path / "small train", 56), test) == [expected] * 2


def test_pairs_of_pictures(tmp_path: Path) -> None:
    """A pair is left out for one of its pictures, a picture for one of a pair."""
    one = [image(tmp_path / f"{seed}.jpg", jpeg(seed)) for seed in range(8)]
    train = put(tmp_path / "train", *one[:4], pair_of(one[0], one[1]), pair_of(one[4], one[1]), pair_of(one[5], one[6]))
    held = pair_of(one[0], one[1]), one[7]
    test = put(tmp_path / "test", *(replace(sample, split=Split.TEST) for sample in held))
    assert both_ways(tmp_path, train, test) == [dict.fromkeys(("0", "1", "0+1", "4+1"), IN_TEST_SET)] * 2
    single = put(tmp_path / "single", replace(one[6], split=Split.TEST))
    assert both_ways(tmp_path / "single", train, single) == [{"5+6": IN_TEST_SET}] * 2


def test_pairs_that_share_a_picture_are_not_alike(tmp_path: Path) -> None:
    one = [image(tmp_path / f"{seed}.jpg", jpeg(seed)) for seed in range(4)]
    train = put(tmp_path / "train", pair_of(one[0], one[1]), pair_of(one[0], one[2]))
    test = put(tmp_path / "test", replace(one[3], split=Split.TEST))
    assert left_out(train, test, tmp_path / "out", Duplicates.LOOK) == {}


def test_texts_of_other_corpora(tmp_path: Path) -> None:
    """The same words, with whatever label or blanks."""
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA/dev.tsv").write_text("gj04\t1\t\tThe same  sentence.\n")
    glue = source("glue", Split.TEST).samples(tmp_path / "CoLA/dev.tsv", tmp_path)
    train = put(tmp_path / "train", text("same", "The same sentence.\n"), text("other", "The same."))
    assert both_ways(tmp_path, train, put(tmp_path / "test", *glue)) == [{"same": IN_TEST_SET}] * 2


def test_pairs_of_texts(tmp_path: Path) -> None:
    """A text is left out for one of a pair; of a pair only both together, since a premise stands in many."""

    def two(key: str, first: str, second: str, split: Split = Split.TRAIN) -> Sample:
        sample = text(key, first, split)
        return replace(sample, record=replace(sample.record, second_text=second, label=key))

    pairs = two("both", "a premise", "a  claim"), two("first", "a premise", "another"), two("turned", "a claim", "a premise")
    train = put(tmp_path / "train", *pairs, text("alone", "a claim"), text("joined", "a premise a claim"))
    test = put(tmp_path / "test", two("held", "a premise", "a claim", Split.TEST))
    assert both_ways(tmp_path, train, test) == [{"both": IN_TEST_SET, "alone": IN_TEST_SET}] * 2


def test_damaged_shards_of_a_test_set(tmp_path: Path) -> None:
    sample = image(tmp_path / "0.jpg", jpeg(0), split=Split.TEST)
    packed(put(tmp_path / "test", sample), tmp_path / "shards")
    train = put(tmp_path / "train", replace(sample, split=Split.TRAIN))
    (folder,) = stream_folders(tmp_path / "shards")
    tar = folder / "000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8\xff", b"\xff\xd8\x00"))
    with pytest.raises(UserError, match=r"sample 0 of --test .* cannot be read .*: run `mplug2 data verify"):
        left_out(train, tmp_path / "shards", tmp_path / "out")
