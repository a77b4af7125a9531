"""What the page of a run says, for runs in every state."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megatron_mplug2.cli import app
from megatron_mplug2.config.layout import LayoutConfig
from megatron_mplug2.config.load import write_resolved
from megatron_mplug2.errors import UserError
from megatron_mplug2.observability.report.page import write_run_report
from megatron_mplug2.observability.run_history import RunHistory
from tests.data_tools.report.test_report import Page
from tests.observability.report.folders import HOSTILE, config_of, write_finished_run, write_steps


def page_of(folder: Path) -> Page:
    write_run_report(folder, folder / "report.html")
    return Page(folder / "report.html")


def test_a_finished_run(tmp_path: Path) -> None:
    write_finished_run(tmp_path)
    page = page_of(tmp_path)
    for told in (
        "Run demo",
        "Finished at ",
        "1,200 steps of 1,200 done",
        "20 steps lost",
        "1 steps left out",
        "3 samples replaced",
        "ended without a word",
        "2 ranks (tensor 1, pipeline 1, data 2)",
        "bad step 900 a spike",
        "3 content the record of … is damaged",
        "text finds clip, R@1 95.7 0.4",
        "all questions 97.3",
        "said a circle",
        "found by its text at rank 1, finds its text at rank 2 of 256; before it: a blue square",
        "vision.blocks 0–3",
        "name: demo",
    ):
        assert told in page.text, told
    assert page.links == [] and "script" not in page.tags and len(page.pictures) == 4 + 4 * 4
    assert not re.search(r"https?:|url\(|@import", (tmp_path / "report.html").read_text())
    assert page.tags.count("svg") >= 16 and "%" in page.text
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_every_chart_has_its_units_and_values(tmp_path: Path) -> None:
    write_finished_run(tmp_path)
    write_run_report(tmp_path, tmp_path / "report.html")
    plots = re.findall(r'<svg class="plot".*?</details>', (tmp_path / "report.html").read_text(), re.DOTALL)
    assert len(plots) == 16
    for plot in plots:
        assert re.search('class="title y-title"[^>]*>[^<]+<', plot) and re.search('class="title x-title"[^>]*>optimizer step<', plot)
        assert plot.count("<tr>") > 1 and 'class="hover"' in plot


def test_a_run_that_is_going_on_or_was_killed(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    write_resolved(config, tmp_path)
    RunHistory(tmp_path).started(0, config.layout, [0])
    page = page_of(tmp_path)
    assert "No end is written: it is running, or was killed" in page.text and "Nothing was logged yet" in page.text
    write_steps(tmp_path, 0, 100)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 1')  # a line that is being written
    page = page_of(tmp_path)
    assert "100 steps of 1,200 done" in page.text and "This run was not evaluated yet" in page.text and "Left out:" not in page.text


def test_scores_of_downstream_families(tmp_path: Path) -> None:
    """Of a run that was finetuned for one, also where their file is damaged."""
    config = config_of(tmp_path)
    write_resolved(config, tmp_path)
    RunHistory(tmp_path).started(0, config.layout, [0])
    (tmp_path / "evaluation-video_retrieval.json").write_text('{"step": 40, "scores": ["R@1"]}')
    found = {"step": 40, "scores": {"exact match": 94.46, "exact match: <b>": 50.0}, "chance": {"exact match": 12.5}}
    (tmp_path / "evaluation-video_qa.json").write_text(json.dumps(found))
    page = page_of(tmp_path)
    assert "Video qa Test split, after step 40; more in evaluation-video_qa.html" in page.text
    assert "exact match 94.5 12.5 exact match: <b> 50.0" in page.text and "Video retrieval" in page.text
    assert "not evaluated yet" not in page.text


def test_stages_of_a_pipeline(tmp_path: Path) -> None:
    write_finished_run(tmp_path, "layout.data=1", "layout.pipeline=2")
    page = page_of(tmp_path)
    first, second = (re.search(rf"Stage {stage} rank {stage}, (\d+) % of the work", page.text) for stage in (0, 1))
    assert first is not None and second is not None and int(first[1]) + int(second[1]) in (99, 100, 101)
    assert "ZeRO-1 off" in page.text, "there is nobody to share with"
    assert page.text.index("vision.blocks") < page.text.index("Stage 1") < page.text.index("decoder.layers")


def test_damage_is_left_out_and_counted(tmp_path: Path) -> None:
    write_finished_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\0\0\n{"kind": "train", "step": "5"}\n' + b"[" * 100_000 + b'\n{"kind": "train", "step": 1300, "lr": "nan"}\n')
    for name in ("quarantine.jsonl", "samples.jsonl", "history.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"\xff{}\n")
    (tmp_path / "evaluation.json").write_text('{"step": ')
    (tmp_path / "config.yaml").write_text("name: [\n")
    page = page_of(tmp_path)
    assert "Left out: 3 lines of metrics.jsonl" in page.text and "1 value left out: not a number, or infinite" in page.text
    for name in ("quarantine.jsonl", "samples.jsonl", "history.jsonl"):
        assert f"Left out: 1 line of {name}" in page.text
    assert "config is of another version" in page.text and "Cross" not in page.text and "cross-entropy (nats)" in page.text


@pytest.mark.parametrize("at", ["NaN", "Infinity", "1e20", "-1", "1" + "0" * 400], ids=["nan", "inf", "far", "before", "long"])
def test_an_event_of_an_impossible_time_or_step_is_left_out(tmp_path: Path, at: str) -> None:
    write_finished_run(tmp_path)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write(f'{{"event": "start", "at": {at}, "step": 3}}\n{{"event": "end", "at": 2e9, "step": 1{"0" * 400}}}\n')
        file.write('{"event": ["end"], "at": 2e9, "step": 3}\n{"event": "start", "at": 2e9, "step": 3, "lost_steps": [1]}\n')
    assert "Left out: 4 lines of history.jsonl" in page_of(tmp_path).text


@pytest.mark.parametrize("value", [1e308, 5e-324, 10**400], ids=["huge", "tiny", "long"])
def test_a_number_that_no_run_writes_makes_a_page_all_the_same(tmp_path: Path, value: float) -> None:
    write_finished_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for step, sign in ((1300, 1), (1301, -1)):
            figures = {"lr": sign * value, "grad_norm": value, "temperature": -value}
            file.write(json.dumps({"kind": "train", "step": step, **figures}) + "\n")
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": value, "qa": {"all": value}}))
    (tmp_path / "run_summary.json").write_text(json.dumps({"effective_training_time": value, "wall_s": value, "starts": value}))
    page = page_of(tmp_path)
    assert "nan" not in page.text and page.tags.count("svg") >= 16


def test_brackets_without_end_are_damage(tmp_path: Path) -> None:
    write_finished_run(tmp_path)
    (tmp_path / "config.yaml").write_text("[" * 20_000)
    damaged = tmp_path / "checkpoints" / "step-00000005"
    damaged.mkdir(parents=True)
    (damaged / "COMMIT").write_text("[" * 100_000)
    assert "config is of another version" in page_of(tmp_path).text


def test_texts_of_strangers_stay_texts(tmp_path: Path) -> None:
    write_finished_run(tmp_path, text=HOSTILE)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 7, "task": "text", f"loss/{HOSTILE}": 1.0, f"grad_norm/{HOSTILE}": 1.0}) + "\n")
    page = page_of(tmp_path)
    assert "<script>document.title" in page.text and "script" not in page.tags and "\u202e" not in page.text
    assert len(page.pictures) == 20 and page.tags.count("body") == 1


def test_a_flipped_bit_in_any_record_makes_a_page_all_the_same(tmp_path: Path) -> None:
    write_finished_run(tmp_path)
    for path in sorted(tmp_path.glob("*.json*")):
        before = path.read_bytes()
        for place in range(0, min(len(before), 400), 97):
            path.write_bytes(before[:place] + bytes([before[place] ^ 8]) + before[place + 1 :])
            page_of(tmp_path)
        path.write_bytes(before)


def test_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_finished_run(folder)
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.stdout == f"wrote {folder / 'report.html'}\n" and (folder / "report.html").exists()
    again = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "new" / "page.html")])
    assert again.exit_code == 0 and (tmp_path / "new" / "page.html").exists()
    for wrong in (tmp_path / "nowhere", tmp_path / "new"):
        error = CliRunner().invoke(app, ["report", str(wrong)]).exception
        assert isinstance(error, UserError) and str(error).startswith(f"{wrong} is no run's folder") and "\n" not in str(error)
    blocked = CliRunner().invoke(app, ["report", str(folder), "--out", str(folder / "config.yaml" / "page.html")]).exception
    assert isinstance(blocked, UserError) and str(blocked).startswith("cannot write ")
    assert not (tmp_path / "new" / "report.html").exists()


@pytest.mark.long
def test_a_hundred_thousand_logged_steps(tmp_path: Path) -> None:
    config = config_of(tmp_path, "schedule.1.steps=99750")
    write_resolved(config, tmp_path)
    RunHistory(tmp_path).started(0, LayoutConfig(), [0])
    write_steps(tmp_path, 0, 400, every=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for later in range(0, config.steps, 400):
            file.writelines(json.dumps(line | {"step": line["step"] + later}) + "\n" for line in lines)
    page = page_of(tmp_path)
    assert "100,000 steps of 100,000 done" in page.text and "polygon" in page.tags
    assert (tmp_path / "report.html").stat().st_size < 1_500_000
