"""Families that choose among a closed list of classes: what a validation tells of them, and what is checked before a run."""

import torch

from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import Unreadable
from megatron_mplug2.data.labelling import Labelling, labelling_of
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.class_batches import ClassSamples
from megatron_mplug2.evaluation.classify import listed, make_classifier
from megatron_mplug2.evaluation.gather import gather_lists, gather_samples
from megatron_mplug2.evaluation.generation.answer_ranking import check_lengths
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.metrics.classes import measures_of, values
from megatron_mplug2.training.interface import TrainingEngine


def check_classes(config: RunConfig) -> None:
    """Before ranks start. Raises UserError for prompts, which a training has no use for, and for a list that cannot be taught."""
    labelling, downstream = labelling_of(config), config.downstream
    if labelling is None or downstream is None or downstream.classes is None:
        return
    if downstream.classes.prompts:
        raise UserError("downstream.classes.prompts are for `mplug2 evaluate` of a run that is not finetuned: leave them out to finetune")
    check_lengths(Tokenizer(config.data.vocab, config.model.text.vocab_size), listed(labelling), config.data.target_length)


def class_figures(config: RunConfig) -> list[str]:
    """Names of what `measure_classes` finds. Raises UserError where the list of classes cannot be used."""
    labelling = labelling_of(config)
    return [] if labelling is None else [f"{labelling.family}/{measure}" for measure in measures_of(labelling.family, labelling.classes)]


def measure_classes(engine: TrainingEngine, family: Family, samples: int) -> dict[str, float]:
    """Of the first `samples` of the validation split whose labels are in the list: `image_classification/top-1` in percent, and so on.

    Collective over the world; raises UserError for unusable data.
    """
    config, topology, labelling = engine.config, engine.topology, labelling_of(engine.config)
    assert labelling is not None
    inference = Inference(engine.stage, engine.context)
    looked_at = ClassSamples(
        config=config,
        split=Split.VALIDATION,
        task=family.task,
        manifest=open_stream(config.data, Split.VALIDATION, family.task),
        topology=topology,
        most=samples,
        unreadable=Unreadable.LEAVE_OUT,
    )
    indices, rows, labels = _own(looked_at, labelling, inference, config)
    probabilities, _ = gather_samples(rows.to(inference.device), torch.tensor(indices, dtype=torch.int64), topology.data_group)
    everyone = sorted(gather_lists(list(zip(indices, labels, strict=True)), topology.data_group))
    if not everyone:
        return {}
    measures, classes = measures_of(family, labelling.classes), labelling.classes
    found = values(measures, probabilities.cpu(), [label for _, label in everyone], classes)
    return {f"{family}/{measure}": value for measure, value in found.items()}


def _own(samples: ClassSamples, labelling: Labelling, inference: Inference, config: RunConfig) -> tuple[list[int], torch.Tensor, list[str]]:
    """Indices, probabilities and labels of this rank's samples. What lacks something, or has another label, is passed over."""
    indices: list[int] = []
    rows: list[torch.Tensor] = []
    labels: list[str] = []
    for batch in samples.classified(make_classifier(inference, config, labelling)):
        for index, row in zip(batch.indices, batch.probabilities, strict=True):
            record = samples.manifest.record(index)
            if record.label is not None and labelling.gap(record) is None and labelling.place(record) is not None:
                indices.append(index)
                rows.append(row)
                labels.append(record.label)
    return indices, torch.stack(rows) if rows else torch.empty(0, len(labelling.classes.names)), labels
