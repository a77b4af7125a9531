"""The commands as a person runs them: ended by SIGTERM and Ctrl-C, run again, told what is wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from data_tools.commands import app
from data_tools.stages.listing import LISTING
from data_tools.stages.work_folder import WORK
from megatron_mplug2.errors import UserError
from tests.data_tools.stages.corpora import LIMIT_S, image, jpeg, mixed_corpus, noise_clip, tree, video, wait_for, write_listing


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_corpus(tmp_path_factory.mktemp("commands") / "corpus")


def data(*words: object) -> Result:
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_one_stage_after_another(corpus: Path, tmp_path: Path) -> None:
    probe = data("probe", "listing", corpus, "--out", tmp_path / "a", "--workers", 2)
    lines = ["train/image_text: 7 samples", "train/text: 2 samples", "train/video_text: 8 samples"]
    lines += ["left out: 2 x media file not readable", "left out: 1 x no caption or text"]
    assert probe.stdout.splitlines() == lines
    again = data("probe", "listing", corpus, "--out", tmp_path / "a")
    assert again.stdout.splitlines() == [f"{tmp_path / 'a'} was finished before: nothing is done again", *lines]
    filtered = data("filter", "listing", tmp_path / "a", "--out", tmp_path / "b", "--duplicates", "content", "--max-aspect", 1.4)
    assert "train/image_text: 6 samples" in filtered.stdout and "left out: 1 x the same bytes again" in filtered.stdout
    assert "left out: 8 x picture or frames too small or too narrow" in filtered.stdout
    part = data("transcode", "listing", tmp_path / "b", "--out", tmp_path / "c", "--short-side", 24, "--part", "2/2")
    assert part.stdout == f"part 2/2 of {tmp_path / 'c'} is done; 1 chunks of other parts are not there yet\n"
    assert "train/image_text: 6 samples" in data(*part_of("1/2", tmp_path)).stdout
    assert len(list((tmp_path / "c/media").rglob("*.jpg"))) == 6


def part_of(part: str, folder: Path) -> tuple[object, ...]:
    return ("transcode", "listing", folder / "b", "--out", folder / "c", "--short-side", 24, "--part", part)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("probe", "coco", "none.json", "--out", "out"), r"cannot read the annotation .*none\.json"),
        (("probe", "coc", "none.json", "--out", "out"), "did you mean 'coco'"),
        (("filter", "coco", "captions.json", "--out", "out"), "run `mplug2 data probe coco captions.json"),
        (("transcode", "listing", "none", "--out", "out"), "none is no finished listing"),
        (("probe", "coco", "none.json", "--out", "out", "--part", "3/2"), "such as 2/8"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = data(*words)
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match=message):
        raise result.exception
    assert "\n" not in str(result.exception)
    assert os.listdir(tmp_path) == []


def test_nothing_usable_is_told_and_stays_to_be_looked_at(tmp_path: Path) -> None:
    listing = write_listing(tmp_path / "in", [video(tmp_path / "bad.mp4", b"garbage")])
    result = data("probe", "listing", listing, "--out", tmp_path / "out")
    assert result.stdout == "left out: 1 x media file not readable\n"
    assert str(result.exception).startswith(f"no usable sample (see {tmp_path / 'out'}): look into {listing} and for the media")
    assert (tmp_path / "out" / LISTING).exists()


def karpathy(folder: Path) -> Path:
    """An annotation of three pictures in the folder `pictures`, which is not there."""
    images = [{"filename": f"{number}.jpg", "split": "train", "sentences": [{"raw": "a picture"}]} for number in range(3)]
    (folder / "karpathy.json").write_text(json.dumps({"images": images}))
    return folder / "karpathy.json"


@pytest.mark.parametrize("stage", ["probe", "shard"])
def test_media_that_were_missing(stage: str, tmp_path: Path) -> None:
    """With none of them there, the command is run again, even with another --media; with some, the folder is to be deleted first."""
    annotation, pictures, out = karpathy(tmp_path), tmp_path / "pictures", tmp_path / "out"
    words = (stage, "karpathy", annotation, "--out", out)
    (tmp_path / "empty").mkdir()
    nothing = data(*words, "--media", tmp_path / "empty")
    assert isinstance(nothing.exception, UserError) and "check the annotation and --media" in str(nothing.exception)
    pictures.mkdir()
    for number in range(2):
        (pictures / f"{number}.jpg").write_bytes(jpeg(number))
    done = data(*words, "--media", pictures)
    assert done.exit_code == 0 and done.stdout.startswith("train/image_text: 2 samples\nleft out: 1 x media file missing")
    again = data(*words, "--media", pictures)
    assert again.stdout.splitlines()[0].endswith(f"; to take in media that were missing or not readable, delete {out} and run it again")


def test_a_listing_is_the_same_by_another_name(corpus: Path, tmp_path: Path) -> None:
    data("probe", "listing", corpus, "--out", tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for stage in ("filter", "transcode", "shard"):
        assert data(stage, "listing", tmp_path / "a", "--out", tmp_path / stage).exit_code == 0
        assert "was finished before" in data(stage, "listing", tmp_path / "link", "--out", tmp_path / stage).stdout


def test_rules_that_leave_nothing(tmp_path: Path) -> None:
    listing = write_listing(tmp_path / "in", [image(tmp_path / "dog.jpg", jpeg(0), "a red dog")])
    data("probe", "listing", listing, "--out", tmp_path / "a")
    words = ("filter", "listing", tmp_path / "a", "--out", tmp_path / "b")
    refused = data(*words, "--min-words", 5, "--max-words", 3)
    assert str(refused.exception) == "--min-words 5 is more than --max-words 3: nothing is within both" and not (tmp_path / "b").exists()
    assert str(data(*words, "--min-seconds", 2, "--max-seconds", 1.5).exception).startswith("--min-seconds 2.0 is more than --max-seconds")
    nothing = data(*words, "--max-words", 2)
    assert str(nothing.exception) == f"no usable sample (see {tmp_path / 'b'}): loosen the rules, then run the command again"
    assert data(*words, "--max-words", 3).stdout == "train/image_text: 1 samples\n"


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ended_from_outside(sent: signal.Signals, status: int, tmp_path: Path) -> None:
    """As soon as clips are being written: no process is left, and the folder is gone on with."""
    listing = write_listing(tmp_path / "in", [video(tmp_path / f"{number}.mp4", noise_clip(number, frames=40)) for number in range(40)])
    words = ["data", "transcode", "listing", str(listing), "--out", str(tmp_path / "out"), "--workers", "2"]
    # A shell has what it runs in the background ignore Ctrl-C, and these tests may be run so.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from megatron_mplug2.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *words], start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("out/media/*/*.mp4")), "clip")
    os.killpg(process.pid, sent)  # to all of them, as a terminal and SLURM do
    _, told = process.communicate(timeout=LIMIT_S)
    assert process.returncode == status
    assert "Traceback" not in told
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not (tmp_path / "out" / LISTING).exists()
    assert not list((tmp_path / "out" / WORK).glob("part-*-of-1/*"))
    assert data(*words[1:]).exit_code == 0
    words[5] = str(tmp_path / "undisturbed")
    assert data(*words[1:]).exit_code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
