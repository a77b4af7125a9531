"""A checkpoint of a run to a folder that transformers loads, and such a folder to a checkpoint that a run can begin with."""

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import yaml
from pydantic import JsonValue

from data_tools.fresh_file import check_free
from data_tools.fresh_folder import fresh_folder
from megatron_mplug2.checkpoint import commit, inspection, storage, store
from megatron_mplug2.checkpoint.commit_file import checksum
from megatron_mplug2.checkpoint.contents import AVERAGE, WEIGHT, key_of
from megatron_mplug2.checkpoint.inspection import Contents
from megatron_mplug2.checkpoint.pieces import Piece
from megatron_mplug2.checkpoint.state import RunState
from megatron_mplug2.checkpoint.storage import StoredTensors
from megatron_mplug2.config.downstream import FamilyKind
from megatron_mplug2.config.load import parse_resolved
from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.schedule import PhaseConfig, Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.conversion.huggingface.card import model_card
from megatron_mplug2.conversion.huggingface.folder import write_folder
from megatron_mplug2.conversion.huggingface.settings import ModelSettings, ProcessorSettings, Search, model_config
from megatron_mplug2.conversion.huggingface.tokenizer_files import vocabulary_file
from megatron_mplug2.conversion.huggingface.weight_files import read_weights
from megatron_mplug2.conversion.lazy import LazyWeight
from megatron_mplug2.conversion.official import ANSWER_TOKENS, CAPTION_TOKENS
from megatron_mplug2.conversion.released import MISSING, Report, check_whole
from megatron_mplug2.data.coordinates import longest_text
from megatron_mplug2.data.evaluation_batches import last_phase
from megatron_mplug2.data.labelling import labelling_of
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError


def checkpoint_to_folder(place: Path, out: Path) -> Report:
    """Exports a checkpoint's own folder; or of a run's the best one, if it keeps that, else the one that was written last. Every byte of it
    is verified.

    Captions and answers come as in `mplug2 evaluate`, from averages over steps where the run keeps them. The weights are in the
    checkpoint's precision, the optimizer's where it keeps one.

    Raises:
        UserError: there is no checkpoint or it is damaged, the run's vocabulary is another now, or `out` is taken.
    """
    check_free(out)
    contents = _verified(place)
    config = _run_config(contents)
    weights = _stored(contents)
    settings, processor = _model_settings(config), _processor_settings(config)
    parameters = sum(weight.size.numel() for weight in weights)
    results = _results(contents.checkpoint.parent.parent / _evaluation_name(config), contents.state.step)
    card = model_card(f"mPLUG-2, {config.name}", settings, processor, parameters, _facts(config, contents), results)
    write_folder(out, weights, settings, processor, vocab=config.data.vocab, card=card)
    ignored = tuple(kind for kind in contents.optimizer_kinds() if kind != AVERAGE)
    return Report(used=tuple(weight.name for weight in weights), ignored=ignored, missing=())


def folder_to_checkpoint(folder: Path, out: Path) -> Report:
    """Makes `out` with one checkpoint of step 0, for `initialise_from.checkpoint`; of another run's state there is nothing in it.

    Raises:
        UserError: it is no such folder, its weights aren't its model's, or `out` is taken.
    """
    model = model_config(folder)
    weights = read_weights(folder)
    check_whole(weights, model)
    vocabulary = Tokenizer(vocabulary_file(folder), model.text.vocab_size).fingerprint
    write_checkpoint(out, weights, model, {"vocabulary": vocabulary})
    names = {weight.name for weight in weights}
    return Report(used=tuple(sorted(names)), ignored=(), missing=tuple(name for name in MISSING if name not in names))


def write_checkpoint(out: Path, weights: Sequence[LazyWeight], model: ModelConfig, data: dict[str, JsonValue]) -> None:
    """Makes `out` with one checkpoint, of step 0. Raises UserError where it is taken or cannot be written."""
    config = yaml.safe_dump({"model": model.model_dump(mode="json")}, sort_keys=False)
    state = RunState(step=0, config=config, data=data)
    with fresh_folder(out) as made:
        unfinished = commit.begin(store.checkpoint_folder(made), 0)
        commit.replace_durably(unfinished / store.RUN, state.model_dump_json(indent=1))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is: there are no ranks
            storage.write(unfinished, [_piece(weight, weight.read()) for weight in weights])
        commit.commit(unfinished, 0, {path.name: checksum(path) for path in unfinished.iterdir()})


def _verified(place: Path) -> Contents:
    checkpoint = inspection.best_checkpoint_of(place)
    _, faults = inspection.verify(checkpoint)
    if faults:
        raise UserError(f"{faults[0]}: name another checkpoint, RUN/checkpoints/step-...")
    return inspection.inspect(checkpoint)


def _run_config(contents: Contents) -> RunConfig:
    if not contents.state.of_run:
        raise UserError(f"{contents.checkpoint} was made by `mplug2 convert`, not by a run: load the folder that it was made of")
    source = f"the config in {contents.checkpoint}"
    try:
        config = parse_resolved(contents.state.config, source)
    except UserError as error:
        line = str(error).splitlines()[0]
        raise UserError(f"{line}; export a run's checkpoint, of this version") from None
    fingerprint = Tokenizer(config.data.vocab, config.model.text.vocab_size).fingerprint
    if contents.state.data.get("vocabulary", fingerprint) != fingerprint:
        raise UserError(f"{contents.checkpoint} was trained with another vocabulary than {config.data.vocab}: put that one back")
    return config


def _model_settings(config: RunConfig) -> ModelSettings:
    """As the run's evaluation decodes: a box in its likeliest tokens, captions and answers by beam search.

    Raises UserError where its list of classes cannot be read.
    """
    longest = config.data.target_length - 1  # as far as the decoder was taught
    family = config.downstream.family if config.downstream is not None else None
    grounds = family is not None and family.kind is FamilyKind.GROUNDING
    answer = (1, longest_text(config.schedule[-1].resolution) + 1) if grounds else ANSWER_TOKENS
    labelling = labelling_of(config)
    return ModelSettings(
        model=config.model,
        pretraining_heads=True,
        search=Search.STANDARD,
        beams=1 if grounds else ModelSettings.beams,
        caption_tokens=(CAPTION_TOKENS[0], min(CAPTION_TOKENS[1], longest)),
        answer_tokens=(answer[0], min(answer[1], longest)),
        family=family,
        classes=labelling.classes.names if labelling is not None else (),
    )


def _processor_settings(config: RunConfig) -> ProcessorSettings:
    last, lm, data = _last_phase(config), config.objectives.lm, config.data
    of_texts = config.downstream is not None and config.downstream.family.task is Task.TEXT
    return ProcessorSettings(
        resolution=last.resolution,
        frames=last.frames,
        text_length=data.document_length if of_texts else data.text_length,
        target_length=data.target_length,
        clip_resize=data.test_transform,
        image_instruction=lm.image_instruction,
        video_instruction=lm.video_instruction,
        caption_prompt=None,
        pictures=config.pictures,
    )


def _stored(contents: Contents) -> list[LazyWeight]:
    stored = StoredTensors(contents.checkpoint, contents.commit.files)
    there = {tensor.key for tensor in contents.tensors}

    def read(name: str, size: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(size, dtype=dtype)
        average = key_of(AVERAGE, name)  # as `store.load_weights`
        key = average if average in there else key_of(WEIGHT, name)
        stored.read([Piece(key=key, full_size=size, offsets=(0,) * len(size), tensor=tensor)])
        return tensor

    return [
        LazyWeight(
            name=name,
            size=torch.Size(weight.size),
            dtype=weight.dtype,
            read=partial(read, name, torch.Size(weight.size), weight.dtype),
        )
        for name, weight in contents.weights().items()
    ]


def _piece(weight: LazyWeight, tensor: torch.Tensor) -> Piece:
    return Piece(key=key_of(WEIGHT, weight.name), full_size=weight.size, offsets=(0,) * len(weight.size), tensor=tensor)


def _last_phase(config: RunConfig) -> PhaseConfig:
    """Whose frames and resolution an evaluation of clips takes, or of pictures where the run saw no clips."""
    tasks = [task for task in (Task.VIDEO_TEXT, Task.IMAGE_TEXT) if any(phase.share(task) > 0 for phase in config.schedule)]
    return last_phase(config, tasks[0]) if tasks else config.schedule[-1]


def _facts(config: RunConfig, contents: Contents) -> dict[str, str]:
    tasks = ", ".join(f"{phase.steps:,} steps of {phase.frames} frames at {phase.resolution} pixels" for phase in config.schedule)
    finetuned = {} if config.downstream is None else {"finetuned for": config.downstream.family.value.replace("_", " ")}
    return {
        "run": config.name,
        **finetuned,
        "checkpoint": f"step {contents.state.step:,} of {config.steps:,}",
        "schedule": tasks,
        "global batch": f"{config.training.global_batch:,}",
        "precision": config.training.precision.value,
        "learning rate": f"{config.optimizer.lr:g}",
    }


def _evaluation_name(config: RunConfig) -> str:
    """What `mplug2 evaluate` leaves in a run's folder."""
    return "evaluation.json" if config.downstream is None else f"evaluation-{config.downstream.family}.json"


def _results(path: Path, step: int) -> str:
    """A table of the figures that `mplug2 evaluate` found for this step; nothing where there are none."""
    try:
        results = json.loads(path.read_bytes())
        if results["step"] != step:
            return ""
        figures = _figures(results.get("scores", results), "")  # of a family; of a pretraining all
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    rows = "".join(f"| {name} | {figure:.2f} |\n" for name, figure in figures)
    return f"## Results\n\n| on the run's test split | |\n|---|---|\n{rows}" if rows else ""


def _figures(tree: Mapping[str, object], place: str) -> list[tuple[str, float]]:
    """Dotted name and number of each real number in a tree."""
    found: list[tuple[str, float]] = []
    for key, value in tree.items():
        name = f"{place}.{key}" if place else key
        if isinstance(value, Mapping):
            found += _figures(value, name)
        elif isinstance(value, float):
            found.append((name, value))
    return found
