"""What is left out of a listing and why; one rule at a time, on samples with looks as a probe finds them."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_tools.sample import Look, MediaPlace, Reason, Sample
from data_tools.splits import Split
from data_tools.stages.choices import Duplicates
from data_tools.stages.filter import FilterStage
from data_tools.stages.listing import ListingHeader, chunk_name, read_listing
from data_tools.stages.near import NearHashes
from data_tools.stages.part import Part
from data_tools.stages.probe import look_hash
from data_tools.stages.rules import Rules, obeying
from data_tools.stages.stage import Effort, run_stage
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.data.manifest import MediaKind, content_id
from megatron_mplug2.data.media_facts import MediaFacts
from megatron_mplug2.data.record import Record
from megatron_mplug2.errors import UserError
from tests.data.corpus import pair, picture, write_stream
from tests.data_tools.stages.corpora import faults, image, jpeg, probed, tree, write_listing

CLIP = MediaFacts(codec="h264", width=640, height=360, frames=250, fps=25.0, duration_s=10.0)


def known(key: str, *captions: str, content: int = 0, look: int = 0, split: Split = Split.TRAIN) -> Sample:
    """A clip whose media is never read: a number stands for its content (a new one for 0)."""
    media_id = content or content_id("media", key.encode())
    return Sample(
        split=split,
        stream=Task.VIDEO_TEXT,
        key=key,
        media=MediaPlace(path=Path("/none") / key),
        record=Record(captions=captions or ("some words",), attributes={}),
        look=Look(facts=CLIP, size=1000, media_id=media_id, look_hash=look),
    )


def filtered(folder: Path, samples: Sequence[Sample], tests: tuple[Path, ...] = (), **asked: object) -> tuple[list[str], dict[str, str]]:
    """The keys that stay, and the details of those that are left out."""
    stage = filter_stage(write_listing(folder / "in", samples, chunk=3), tests, **asked)
    assert run_stage(stage, folder / "out", Effort()) == 0
    found = list(read_listing(folder / "out"))
    assert [sample.key for sample in found] == [sample.key for sample in samples]
    return [sample.key for sample in found if not sample.fault], {each.key: each.fault.detail for each in found if each.fault}


def filter_stage(listing: Path, tests: tuple[Path, ...] = (), **asked: object) -> FilterStage:
    whole: dict[str, object] = {"rules": Rules(), "duplicates": Duplicates.KEEP, "look_distance": 3} | asked
    return FilterStage(listing=listing, tests=tests, **whole)  # type: ignore[arg-type]


def test_captions() -> None:
    rules = Rules(min_words=2, max_words=3)
    sample = known("a", "one", "one two", "one two three", "one two three four")
    assert obeying(sample, rules).record.captions == ("one two", "one two three")
    fault = obeying(known("b", "one", "one two three four"), rules).fault
    assert fault and (fault.reason, fault.detail) == (Reason.CAPTION_LENGTH, "1, 4 words")
    bare = replace(sample, record=Record(text="one", attributes={}))
    assert obeying(bare, rules) == bare


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (Rules(min_side=360, max_aspect=1.8, min_seconds=10.0, max_seconds=10.0), None),
        (Rules(min_side=361), Reason.SIZE),
        (Rules(max_aspect=1.7), Reason.SIZE),
        (Rules(min_seconds=10.5), Reason.DURATION),
        (Rules(max_seconds=9.5), Reason.DURATION),
    ],
)
def test_size_and_length(rules: Rules, reason: Reason | None) -> None:
    fault = obeying(known("a"), rules).fault
    assert (fault and fault.reason) == reason


def test_length_is_that_of_the_part_that_is_spoken_of() -> None:
    sample = known("a")
    part = replace(sample, record=replace(sample.record, span_s=(2.0, 5.0)))
    assert not obeying(part, Rules(min_seconds=3.0, max_seconds=3.0)).fault
    assert obeying(part, Rules(min_seconds=3.5)).fault


def test_duplicates_by_content(tmp_path: Path) -> None:
    """The first stays; what is left out by a rule or before does not count."""
    samples = [
        known("left out before", content=5).without(Reason.MISSING),
        known("short", "one", content=5),
        known("first", content=5),
        known("other", content=6),
        known("second", content=5),
    ]
    kept, details = filtered(tmp_path, samples, duplicates=Duplicates.CONTENT, rules=Rules(min_words=2))
    assert kept == ["first", "other"]
    assert details == {"left out before": "", "short": "1 words", "second": "first"}
    assert ListingHeader.load(tmp_path / "out").left_out == {
        "media file missing": 1,
        "caption too short or too long": 1,
        "the same bytes again": 1,
    }


def test_duplicates_by_look(tmp_path: Path) -> None:
    """Three bits differ, or four; a look of 0 is none; nothing is dropped for what is dropped itself."""
    look = 0x0123456789ABCDEF
    samples = [
        known("a", look=look),
        known("three", look=look ^ 0b10011),
        known("four", look=look ^ 0b1111 << 40),
        known("near three only", look=look ^ 0b10011 ^ 0b111 << 60 & (1 << 64) - 1),
        known("flat", look=0),
        known("flat too", look=0),
        known("same bytes", content=9, look=1 << 20),
        known("same bytes too", content=9, look=(1 << 33) - 1),
    ]
    kept, details = filtered(tmp_path, samples, duplicates=Duplicates.LOOK)
    assert kept == ["a", "four", "near three only", "flat", "flat too", "same bytes"]
    assert details == {"three": "a", "same bytes too": "same bytes"}


def test_duplicates_across_splits(tmp_path: Path) -> None:
    """Test wins over validation, validation over train, in whatever order they come."""
    samples = [
        known("train", content=1),
        known("train too", content=2),
        known("validation", content=1, split=Split.VALIDATION),
        known("validation too", content=2, split=Split.VALIDATION),
        known("test", content=1, split=Split.TEST),
    ]
    kept, details = filtered(tmp_path, samples, duplicates=Duplicates.CONTENT)
    assert kept == ["validation too", "test"]
    assert details == {"train": "test", "train too": "validation too", "validation": "test"}


def test_real_pictures_that_look_alike(tmp_path: Path) -> None:
    """The same picture, larger and at another quality, and another one."""
    samples = [
        image(tmp_path / "a.jpg", jpeg(1, (160, 120))),
        image(tmp_path / "b.jpg", jpeg(1, (320, 240))),
        image(tmp_path / "c.jpg", jpeg(2)),
    ]
    listing = probed(write_listing(tmp_path / "in", samples), tmp_path / "probed")
    assert run_stage(filter_stage(listing, duplicates=Duplicates.LOOK), tmp_path / "out", Effort()) == 0
    assert faults(tmp_path / "out") == {"b": "the same look again"}


def test_what_stands_in_test_sets(tmp_path: Path) -> None:
    """By media and look, in a listing and in shards; the samples of a split `test` are not kept out."""
    held = [
        known("t1", content=1, look=0xFF00, split=Split.TEST),
        known("t2", content=2).without(Reason.MISSING),
        known("train", content=3),
    ]
    listing = write_listing(tmp_path / "held", held)
    write_stream(tmp_path / "shards/test/image_text", MediaKind.IMAGE, [pair(7, picture(7))])
    write_stream(tmp_path / "shards/train/image_text", MediaKind.IMAGE, [pair(8, picture(8))])
    samples = [
        known("bytes", content=1),
        known("look", look=0xFF01),
        known("missing there", content=2),
        known("train there", content=3),
        known("in test shards", content=content_id("media", picture(7))),
        known("in train shards", content=content_id("media", picture(8))),
        known("a test sample", content=1, split=Split.TEST),
    ]
    kept, details = filtered(tmp_path, samples, (listing, tmp_path / "shards"))
    assert kept == ["missing there", "train there", "in train shards", "a test sample"]
    assert details == {"bytes": f"{listing}: t1", "look": f"{listing}: t1", "in test shards": f"{tmp_path / 'shards'}: pair-0007"}
    assert ListingHeader.load(tmp_path / "out").left_out == {"stands in a test set": 3}


def test_what_is_no_test_set(tmp_path: Path) -> None:
    listing = write_listing(tmp_path / "in", [known("a")])
    for place, message in ((tmp_path / "nothing", "neither a listing nor"), (listing, "no test or validation sample")):
        with pytest.raises(UserError, match=message):
            run_stage(filter_stage(listing, (place,)), tmp_path / "out", Effort())
        assert not (tmp_path / "out").exists()
    for unknown in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match=r"cannot read .*listing\.json"):
            run_stage(filter_stage(unknown), tmp_path / "out", Effort())


def test_a_listing_without_looks(tmp_path: Path) -> None:
    listing = write_listing(tmp_path / "in", [replace(known("a"), look=None)])
    with pytest.raises(UserError, match="run `mplug2 data probe`"):
        run_stage(filter_stage(listing), tmp_path / "out", Effort())
    assert not (tmp_path / "out").exists()


def test_parts_give_the_same(tmp_path: Path) -> None:
    numbers = random.Random(0)
    samples = [known(f"s{number}", content=numbers.randrange(1, 25), look=1 << numbers.randrange(60)) for number in range(40)]
    kept, _ = filtered(tmp_path, samples, duplicates=Duplicates.LOOK)
    assert 0 < len(kept) < 25
    for index in (3, 1, 2):
        stage = filter_stage(tmp_path / "in", duplicates=Duplicates.LOOK)
        run_stage(stage, tmp_path / "parts", Effort(part=Part(index=index, count=3), workers=2))
    assert tree(tmp_path / "parts") == tree(tmp_path / "out")


def test_a_part_without_duplicates_reads_its_own_chunks_alone(tmp_path: Path) -> None:
    """Of four; a chunk that only another part needs may be away."""
    samples = [known(f"s{number}", "too short" if number % 2 else "long enough for all") for number in range(12)]
    rules = Rules(min_words=3)
    kept, _ = filtered(tmp_path, samples, rules=rules)
    assert len(kept) == 6
    away = tmp_path / "in" / chunk_name(1)
    away.rename(tmp_path / "away")
    assert run_stage(filter_stage(tmp_path / "in", rules=rules), tmp_path / "parts", Effort(part=Part(index=1, count=2))) == 2
    with pytest.raises(UserError, match=r"cannot read .*000001\.jsonl"):
        run_stage(filter_stage(tmp_path / "in", rules=rules), tmp_path / "parts", Effort(part=Part(index=2, count=2)))
    (tmp_path / "away").rename(away)
    assert run_stage(filter_stage(tmp_path / "in", rules=rules), tmp_path / "parts", Effort(part=Part(index=2, count=2))) == 0
    assert tree(tmp_path / "parts") == tree(tmp_path / "out")


@pytest.mark.parametrize("distance", [0, 3, 7])
def test_near_hashes_are_those_of_a_search_through_all(distance: int) -> None:
    numbers = random.Random(distance)
    hashes = [numbers.getrandbits(64) for _ in range(60)]
    for _ in range(240):  # near others, at and around the distance
        flipped = numbers.sample(range(64), max(0, distance + numbers.randrange(-1, 2)))
        hashes.append(numbers.choice(hashes) ^ sum(1 << bit for bit in flipped))
    index = NearHashes(distance)
    for number, bits in enumerate(hashes):
        slow = next((other for other in range(number) if (hashes[other] ^ bits).bit_count() <= distance), None)
        assert index.near(bits) == slow
        index.add(bits, number)


def test_look_hash_outlives_scale_and_light() -> None:
    pixels = np.random.default_rng(0).random((3, 6, 8)).repeat(8, 1).repeat(8, 2)
    assert (look_hash(pixels) ^ look_hash(pixels[:, ::2, ::2] * 0.7 + 0.1)).bit_count() <= 3
    assert (look_hash(pixels) ^ look_hash(pixels[:, :, ::-1])).bit_count() > 15
