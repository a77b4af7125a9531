"""The demo on a small corpus and a few steps, as a person runs it: real files, real ranks."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools.demo.make import Sizes, make_demo
from data_tools.splits import Split
from launchers.demo import run_demo
from launchers.demo_corpus import prepare_corpus
from megatron_mplug2.config.load import load_config
from megatron_mplug2.errors import ExitCode, UserError
from megatron_mplug2.training.loop import pretrain

CONFIG = Path(__file__).parents[2] / "configs/pretrain/demo.yaml"
SHORT = ["schedule.0.steps=2", "schedule.1.steps=2", "optimizer.warmup_steps=1", "training.validate_every=0", "data.workers=0"]
SIZES = {
    Split.TRAIN: Sizes(motions=34, orders=2, pictures=36, documents=36),
    Split.VALIDATION: Sizes(motions=2, orders=1, pictures=2, documents=2),
    Split.TEST: Sizes(motions=10, orders=2, pictures=6, documents=2),
}
DIRECTION = {"r1", "r5", "r10", "r1_rerank", "r5_rerank", "r10_rerank", "chance_r1", "gallery"}
QUESTIONS = {"all", "motion", "motion_reversed_opposite", "motion_single_frame", "chance_motion"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with a small corpus in place of the full one."""
    monkeypatch.chdir(tmp_path)
    make_demo(tmp_path / "runs/demo/data/corpus", 0, SIZES)
    return tmp_path


def prepare(notes: list[str] | None = None, *overrides: str) -> bool:
    return prepare_corpus(load_config(CONFIG, list(overrides)), (notes if notes is not None else []).append)


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def cut_a_tar(shards: Path) -> None:
    tar = next((shards / "test/video_text").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-2000])


def lose_a_manifest(shards: Path) -> None:
    (shards / "train/text/manifest.json").unlink()


@pytest.mark.parametrize("damage", [cut_a_tar, lose_a_manifest])
def test_the_corpus_is_made_once_and_mended_when_damaged(place: Path, damage: Callable[[Path], None]) -> None:
    data = place / "runs/demo/data"
    assert prepare()
    made = contents(data)
    assert not prepare()
    assert contents(data) == made
    damage(data / "shards")
    (data / "shards.partial-x").mkdir()
    (data / "vocab.txt.partial").write_text("half")
    notes: list[str] = []
    assert prepare(notes)
    assert any("made anew" in note for note in notes)
    assert {path: content for path, (content, _) in contents(data).items()} == {path: content for path, (content, _) in made.items()}
    assert {path.name for path in data.iterdir()} == {"corpus", "shards", "vocab.txt"}


def test_a_lost_vocabulary_is_trained_again(place: Path) -> None:
    vocab = place / "runs/demo/data/vocab.txt"
    prepare()
    before = vocab.read_text()
    vocab.unlink()
    assert prepare()
    assert vocab.read_text() == before


def test_it_leaves_other_corpora_alone(place: Path) -> None:
    with pytest.raises(UserError, match=r"data\.test\.video_text names .*elsewhere"):
        prepare(None, "data.test.video_text=[elsewhere]")
    assert not (place / "runs/demo/data/shards").exists()


def leaves(node: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{key}.{name}" if name else key: leaf
        for key, value in node.items()
        for name, leaf in (leaves(value).items() if isinstance(value, dict) else [("", value)])
    }


def test_from_nothing_to_a_report_and_a_second_time_quickly(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = place / "runs/demo"
    run_demo(CONFIG, SHORT, pretrain)
    said = capfd.readouterr()
    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary) == {"retrieval", "qa", "caption", "untrained", "minutes", "layout"}
    for results in (summary, summary["untrained"]):
        assert set(results["qa"]) == QUESTIONS
        assert set(results["caption"]) == {"cider", "attributes_right"}
        ways = [results["retrieval"][media][way] for media in ("image", "video") for way in ("t2v", "v2t")]
        assert all(set(way) == DIRECTION for way in ways)
        assert [way["gallery"] for way in ways] == [6, 6, 12, 12]
    assert all(isinstance(value, int | float) for key, value in leaves(summary).items() if not key.startswith("layout"))
    assert summary["layout"]["data"] == 2
    assert 0 < summary["minutes"] < 10
    with Image.open(run_dir / "report.png") as sheet:
        assert sheet.width > 500
        assert sheet.height > 3 * 128
    assert "questions about motion" in said.out
    assert said.out.count("test clip") == 3
    assert said.out.endswith("The whole run on one page: runs/demo/report.html\n")
    page = (run_dir / "report.html").read_text()
    assert "What the model said" in page and page.count("<img") > 12 and "Stage 0" in page
    written = contents(run_dir)
    run_demo(CONFIG, SHORT, pretrain)
    again = capfd.readouterr()
    assert said.out.count("wrote runs/demo/evaluation") == 2
    assert said.out.endswith(again.out)
    assert "What it learned" in again.out.splitlines()[0]
    assert "checkpoint after step 4 of 4" in again.err
    assert "encode, caption" not in again.err, "nothing is evaluated twice"
    kept = {path.name for path, content in contents(run_dir).items() if written.get(path) == content}
    assert {"evaluation.json", "evaluation-untrained.json", "predictions.jsonl", "seconds.json", "vocab.txt"} <= kept
    assert json.loads((run_dir / "summary.json").read_text()) == summary


def test_one_rank_does_all_in_one_process(place: Path) -> None:
    """As on one GPU: three jobs, one after another."""
    run_demo(CONFIG, [*SHORT, "layout.data=1"], pretrain)
    assert json.loads((place / "runs/demo/summary.json").read_text())["layout"]["data"] == 1


@pytest.mark.long
def test_a_pipeline_trains_and_is_evaluated_whole(place: Path) -> None:
    run_demo(CONFIG, [*SHORT, "layout.data=1", "layout.pipeline=2"], pretrain)
    summary = json.loads((place / "runs/demo/summary.json").read_text())
    assert summary["layout"]["pipeline"] == 2


@pytest.mark.long
def test_ctrl_c_in_training_saves_and_the_same_command_goes_on(place: Path) -> None:
    steps = ["schedule.0.steps=2", "schedule.1.steps=18", *SHORT[2:]]
    imports = "from pathlib import Path; from launchers.demo import run_demo; from megatron_mplug2.training.loop import pretrain"
    program = f"{imports}; run_demo(Path({str(CONFIG)!r}), {steps!r}, pretrain)"
    environ = {**os.environ, "PYTHONPATH": str(CONFIG.parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environ
    ) as demo:
        assert demo.stderr is not None
        said = []
        for line in demo.stderr:
            said.append(line)
            if line.startswith("step 1/"):
                demo.send_signal(signal.SIGINT)
        assert demo.wait() == ExitCode.STOPPED, "".join(said)
    assert "the same command goes on from there" in said[-1]
    assert not (place / "runs/demo/summary.json").exists()
    run_demo(CONFIG, steps, pretrain)
    assert json.loads((place / "runs/demo/summary.json").read_text())["minutes"] > 0
