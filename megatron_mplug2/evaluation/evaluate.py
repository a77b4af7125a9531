"""`mplug2 evaluate`: a run on its test split, by what it was trained for; the files that it leaves in the run folder."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from megatron_mplug2.checkpoint.together import together
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.load import resolved_yaml
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import LeftOut
from megatron_mplug2.data.split import Split
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation import model
from megatron_mplug2.evaluation.answer_list import AnswerList
from megatron_mplug2.evaluation.families.evaluate import evaluate_family
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.page import write_page
from megatron_mplug2.evaluation.pretraining import Results, evaluate_pretraining, prediction_lines
from megatron_mplug2.evaluation.progress import EvaluationProgress

RESULTS_NAME, PREDICTIONS_NAME, SAMPLES_NAME = "evaluation.json", "predictions.jsonl", "samples.jsonl"
"""Of a pretraining, in the run folder."""
UNTRAINED_NAME, UNTRAINED_PREDICTIONS_NAME = "evaluation-untrained.json", "predictions-untrained.jsonl"
UNTRAINED_SAMPLES_NAME = "samples-untrained.jsonl"

_Names = tuple[str, str, str]
"""Files of results, predictions and samples."""


@dataclass(frozen=True, kw_only=True)
class FamilyNames:
    """Of a downstream family: one folder may hold several, as that of a pretraining that is tried on all."""

    results: str
    predictions: str
    page: str

    @classmethod
    def of(cls, family: Family, *, trained: bool) -> Self:
        of = family if trained else f"{family}-untrained"
        return cls(results=f"evaluation-{of}.json", predictions=f"predictions-{of}.jsonl", page=f"evaluation-{of}.html")


def evaluate(config: RunConfig, answers: AnswerList | None = None) -> None:
    """Evaluates the run's best checkpoint, if it keeps that, else its newest good one, on its test split.

    Of a pretraining: writes `evaluation.json`, `predictions.jsonl` and `samples.jsonl` into the run folder. Of a downstream family, such as
    video_qa: `evaluation-video_qa.json`, `predictions-video_qa.jsonl` and the page `evaluation-video_qa.html`; its questions are answered
    by choice among `answers`, where there are some. Rank 0 ends with a line on stdout: the results' file and its main scores.

    The work of every rank. Raises UserError for a layout with pipeline stages, a missing or damaged checkpoint, a test split that is
    missing or has fewer samples than data-parallel ranks, and as `evaluate_family`.
    """
    _check_answers(config, answers)
    inference, found = model.trained(config, config.run_dir)
    for line in found.said:
        _progress(inference).note(line)
    step = found.state.step
    if config.downstream is not None:
        _evaluate_family(inference, config, config.downstream.family, answers, step, trained=True)
    else:
        _evaluate_pretraining(inference, config, step, (RESULTS_NAME, PREDICTIONS_NAME, SAMPLES_NAME))


def evaluate_untrained(config: RunConfig, answers: AnswerList | None = None) -> None:
    """The same with the weights that training starts from, for comparison; writes `evaluation-untrained.json` and so on."""
    _check_answers(config, answers)
    inference, _ = model.built(config)
    if config.downstream is not None:
        _evaluate_family(inference, config, config.downstream.family, answers, 0, trained=False)
    else:
        _evaluate_pretraining(inference, config, 0, (UNTRAINED_NAME, UNTRAINED_PREDICTIONS_NAME, UNTRAINED_SAMPLES_NAME))


def config_digest(config: RunConfig) -> str:
    """Tells whether results were found with an equal config."""
    return hashlib.sha256(resolved_yaml(config).encode()).hexdigest()


def _check_answers(config: RunConfig, answers: AnswerList | None) -> None:
    family = config.downstream.family if config.downstream is not None else None
    if answers is not None and family not in (Family.IMAGE_QA, Family.VIDEO_QA):
        raise UserError(f"--answers {answers.path}: only questions are answered from a list; set downstream.family to image_qa or video_qa")


def _evaluate_pretraining(inference: Inference, config: RunConfig, step: int, names: _Names) -> None:
    """Rank 0 writes; results last, so that they are there only with the rest."""
    results_name, predictions_name, samples_name = names
    evaluation = evaluate_pretraining(inference, config, Split.TEST, _progress(inference))
    with together(f"write the evaluation into {config.run_dir}"):
        if inference.context.topology.rank == 0:
            results = asdict(evaluation.results) | _circumstances(config, step, evaluation.left_out)
            write_files(
                {
                    config.run_dir / predictions_name: _lines(json.dumps(line) for line in prediction_lines(evaluation)),
                    config.run_dir / samples_name: _lines(sample.model_dump_json() for sample in evaluation.shown),
                    config.run_dir / results_name: json.dumps(results, indent=1) + "\n",
                }
            )
            print(f"wrote {config.run_dir / results_name}: {_main_scores(evaluation.results)}", flush=True)


def _main_scores(results: Results) -> str:
    """Recall: a text finds its picture or clip / these find a text of theirs."""
    found = (("picture", results.retrieval.image), ("clip", results.retrieval.video))
    scores = [f"{media} R@1 {recall.t2v.r1:.1f} / {recall.v2t.r1:.1f} %" for media, recall in found if recall is not None]
    if results.qa is not None and results.qa.all is not None:
        scores.append(f"questions {results.qa.all:.1f} %")
    if results.caption is not None:
        scores.append(f"captions CIDEr {results.caption.cider:.2f} of 10")
    return ", ".join(scores)


def _evaluate_family(
    inference: Inference, config: RunConfig, family: Family, answers: AnswerList | None, step: int, *, trained: bool
) -> None:
    """Likewise."""
    names, progress = FamilyNames.of(family, trained=trained), _progress(inference)
    evaluation = evaluate_family(inference, config, family, Split.TEST, progress, answers)
    findings = evaluation.findings
    with together(f"write the evaluation into {config.run_dir}"):
        if inference.context.topology.rank == 0:
            write_page(config.run_dir / names.page, evaluation, config, Split.TEST, step)
            scores = {score.name: score.value for score in findings.scores}
            chance = {score.name: score.chance for score in findings.scores if score.chance is not None}
            choice = len(answers.answers) if answers is not None else None
            results = {"family": family, "scores": scores, "chance": chance, "answers": choice, "samples": evaluation.samples}
            results |= {"notes": findings.notes} | _circumstances(config, step, evaluation.left_out)
            write_files(
                {
                    config.run_dir / names.predictions: _lines(json.dumps(asdict(one)) for one in findings.predictions),
                    config.run_dir / names.results: json.dumps(results, indent=1) + "\n",
                }
            )
    for line in (*findings.notes, f"page: {config.run_dir / names.page}"):
        progress.note(line)
    if inference.context.topology.rank == 0:
        print(f"wrote {config.run_dir / names.results}: {findings.scores[0].name} {findings.scores[0].value:.1f}", flush=True)


def _circumstances(config: RunConfig, step: int, left_out: Iterable[LeftOut]) -> dict[str, Any]:
    return {"step": step, "config": config_digest(config), "left_out": {one.key: one.reason for one in left_out}}


def _progress(inference: Inference) -> EvaluationProgress:
    return EvaluationProgress(speaks=inference.context.topology.rank == 0)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def write_files(texts: Mapping[Path, str]) -> None:
    """All or nothing: whatever ends the process before the last one is written, a full disk or a cluster's signal, older files stay as
    they are."""
    unfinished = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished[path].write_text(text, encoding="utf-8")
        for path, written in unfinished.items():
            written.replace(path)
    finally:
        for written in unfinished.values():
            written.unlink(missing_ok=True)
