"""The plain model that a step is measured against does the same work, and learns from it; every measured case can be made."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import ceiling, record, step
from benchmarks.flop_counter import flop_counter
from benchmarks.kernel_parts import KINDS
from benchmarks.reference_model import ReferenceModel
from benchmarks.step import main, our_step, sections_of
from benchmarks.step_cases import CPU_CASE, GPU_CASES, Losses, StepCase, batch_of, config_of
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.data.batch import PairBatch
from megatron_mplug2.observability.efficiency import StepFlops
from megatron_mplug2.observability.sections import Section
from tests.ranks import run_ranks

CASE = StepCase(model="tiny", task=Task.VIDEO_TEXT, losses=Losses.CAPTION, samples=2, frames=3, tokens=20)


def _pairs(folder: Path) -> tuple[ReferenceModel, torch.Tensor, torch.Tensor, torch.Tensor]:
    config = config_of(CASE, folder, Precision.FP32)
    batch = batch_of(config)
    assert isinstance(batch, PairBatch) and batch.media is not None
    return ReferenceModel(config.model), batch.media.float() / 255, batch.instructions, batch.targets


def test_as_many_operations_as_ours(tmp_path: Path) -> None:
    """But of the first layer's gradient to the pixels, which neither needs, and of norms and the like, which nobody counts."""
    config = config_of(CASE, tmp_path, Precision.FP32)
    model, *inputs = _pairs(tmp_path)
    with flop_counter() as counter:
        model(*inputs).backward()
    assert abs(counter.get_total_flops() / StepFlops(config).of(Task.VIDEO_TEXT, config.schedule[0]) - 1) < 0.03


def test_it_learns_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, *inputs = _pairs(tmp_path)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(12):
        losses.append(model(*inputs))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1].item() < 0.8 * losses[0].item()


@pytest.mark.parametrize("case", [CPU_CASE, *GPU_CASES], ids=lambda case: case.name)
def test_every_case_has_a_config_and_a_batch(case: StepCase, tmp_path: Path) -> None:
    config = config_of(case, tmp_path, Precision.FP32)
    batch = batch_of(config)
    assert batch.task is case.task and len(batch.sample_ids) == case.samples


def test_the_sections_of_a_step_end_with_it(tmp_path: Path) -> None:
    """However long the next one is waited for."""
    ((sections, seconds),) = run_ranks(1, _sections_after_a_wait, config_of(CASE, tmp_path, Precision.FP32))
    assert {Section.FORWARD_BACKWARD, Section.OPTIMIZER} <= {section for section, taken in sections.items() if taken}
    assert sum(sections.values()) <= seconds


def _sections_after_a_wait(config: RunConfig) -> tuple[dict[Section, float], float]:
    """And the whole step's seconds."""
    engine, step = our_step(config)
    step()
    time.sleep(0.5)
    begun = time.perf_counter()
    return sections_of(engine, step), time.perf_counter() - begun


def test_a_case_that_is_measured_alone_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    for part, figure in (("one", 1), ("two", 2), ("one", 3)):
        record.write_part("step", part, "command", {}, {"figure": figure})
    found = json.loads((tmp_path / "step.json").read_text())
    assert {part: content["figures"]["figure"] for part, content in found.items()} == {"one": 3, "two": 2}
    assert all({"commit", "hardware", "versions"} <= set(content) for content in found.values())


@pytest.mark.parametrize("name", ["step", "step_h200"])
def test_results_that_are_kept_have_the_names_of_now(name: str) -> None:
    """Shares are of the rates beside them."""
    cases = json.loads((record.RESULTS / f"{name}.json").read_text())
    for figures in (case["figures"] for case in cases.values()):
        for ours in (figures[program] for program in ("ours", "reference") if program in figures):
            reached = 1000 * figures["model_tflop_per_step"] / ours["median_ms"]
            assert ours["share_of_ceiling"] == pytest.approx(reached / max(figures["product_tflops"].values()), abs=2e-4)
            assert set(ours.get("last_step_ms", ())) <= {section.tag for section in Section}
            assert set(ours.get("kernels_ms", ())) <= {*KINDS, "rest", "waiting for the host"}


def test_a_case_of_no_such_name_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["step", "--only", "tiny"])
    with pytest.raises(SystemExit):
        main()
    assert "no case here is called tiny: name some of " in capsys.readouterr().err


@pytest.mark.long
def test_a_case_is_measured_beside_the_plain_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "PRODUCTS", ((64, 64, 64),))
    monkeypatch.setattr(step, "LIVES", 1)
    monkeypatch.setattr(step, "WARMUP", 1)
    figures = step._measured(CASE, Precision.FP32, 2, beside=True)
    ours, plain = figures["ours"], figures["reference"]
    assert ours["runs"] == plain["runs"] == 2
    assert figures["times_the_reference"] == pytest.approx(plain["median_ms"] / ours["median_ms"], abs=0.001)
    rates = figures["product_tflops"]
    reached = 1000 * figures["model_tflop_per_step"] / ours["median_ms"]
    assert ours["share_of_torch_mm"] == pytest.approx(reached / rates["torch.mm"], rel=0.05)  # operations are rounded
    assert ours["share_of_ceiling"] == pytest.approx(reached / max(rates.values()), rel=0.05)  # operations are rounded
    assert {"forward-backward", "optimizer"} <= set(ours["last_step_ms"])
