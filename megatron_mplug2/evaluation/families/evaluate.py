"""The evaluation of a downstream family on a split: each sample once, on any layout of one pipeline stage."""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_mplug2.checkpoint.together import together
from megatron_mplug2.config.downstream import Family
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.evaluation_batches import LeftOut, evaluation_batches
from megatron_mplug2.data.labelling import labelling_of
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.quarantine import BadSample
from megatron_mplug2.data.record import Record
from megatron_mplug2.data.samples import read_record
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.answer_list import AnswerList
from megatron_mplug2.evaluation.class_batches import ClassSamples
from megatron_mplug2.evaluation.classify import make_classifier
from megatron_mplug2.evaluation.families.captions import Captioning
from megatron_mplug2.evaluation.families.classes import Classification
from megatron_mplug2.evaluation.families.findings import FamilyWork, Findings
from megatron_mplug2.evaluation.families.grounding import Grounding
from megatron_mplug2.evaluation.families.questions import QuestionAnswering
from megatron_mplug2.evaluation.families.retrieval import MediaRetrieval
from megatron_mplug2.evaluation.gather import gather_in_order
from megatron_mplug2.evaluation.generation.speaker import Speaker
from megatron_mplug2.evaluation.inference import Inference
from megatron_mplug2.evaluation.progress import EvaluationProgress

BATCH = 32
"""Pictures or clips that a rank encodes at once."""


@dataclass(frozen=True, kw_only=True)
class FamilyEvaluation:
    """The same on every rank."""

    family: Family
    findings: Findings
    samples: int
    """Of the split, without those that are left out."""
    left_out: tuple[LeftOut, ...]
    """Samples that cannot be decoded; nothing counts them."""


def evaluate_family(
    inference: Inference,
    config: RunConfig,
    family: Family,
    split: Split,
    progress: EvaluationProgress,
    answers: AnswerList | None,
) -> FamilyEvaluation:
    """Evaluates a model on a split; questions are answered from `answers` where there are some. Collective over the world.

    Raises UserError for a stream that is missing or has nothing of the family, for texts that cannot be judged, and as the family's
    measures do.
    """
    stream, topology = f"data.{split}.{family.task}", inference.context.topology
    manifest = open_stream(config.data, split, family.task)
    if family.classifies:
        return _evaluate_classes(inference, config, family, split, manifest, progress)
    own = range(topology.data_rank, len(manifest), topology.data_size)
    work = _work(inference, config, family, manifest, stream, answers)
    with progress.stage(f"{family}: check the texts of {len(manifest)} samples"), together(f"read the texts of {stream}"):
        _check(work.fault, manifest, own, stream)
    batches = evaluation_batches(config, split, family.task, data_rank=topology.data_rank, data_size=topology.data_size, batch=BATCH)
    left_out: list[LeftOut] = []
    for batch in progress.over(batches, f"{family}: {work.what}", -(-len(own) // BATCH)):
        left_out += batch.left_out
        if len(batch.indices):
            records = [manifest.record(index) for index in batch.indices.tolist()]
            work.add(batch, inference.encode_media(batch.media, family.task), records)
    findings, lost = work.findings(progress), gather_in_order(left_out, topology.data_group)
    return _whole(family, findings, lost, manifest, stream)


def _evaluate_classes(
    inference: Inference, config: RunConfig, family: Family, split: Split, manifest: Manifest, progress: EvaluationProgress
) -> FamilyEvaluation:
    """Its samples need not be pictures or clips, and may be seen several times."""
    stream, topology = f"data.{split}.{family.task}", inference.context.topology
    samples = ClassSamples(config=config, split=split, task=family.task, manifest=manifest, topology=topology, most=len(manifest))
    labelling = labelling_of(config)
    assert labelling is not None, "the config's checks want a list of classes"
    work = Classification(make_classifier(inference, config, labelling), labelling, samples, config)
    with progress.stage(f"{family}: check the texts of {len(manifest)} samples"), together(f"read the texts of {stream}"):
        _check(work.fault, manifest, samples.own, stream)
    work.run(progress)
    findings, lost = work.findings(inference.device), gather_in_order(work.left_out(), topology.data_group)
    return _whole(family, findings, lost, manifest, stream)


def _whole(family: Family, findings: Findings, lost: tuple[LeftOut, ...], manifest: Manifest, stream: str) -> FamilyEvaluation:
    if not findings.predictions:
        raise UserError(f"{stream} has nothing for downstream.family={family}: name folders with such texts, or another family")
    return FamilyEvaluation(family=family, findings=findings, samples=len(manifest) - len(lost), left_out=lost)


def _work(
    inference: Inference, config: RunConfig, family: Family, manifest: Manifest, stream: str, answers: AnswerList | None
) -> FamilyWork:
    speaker = Speaker(inference, Tokenizer(config.data.vocab, config.model.text.vocab_size), config)
    match family:
        case Family.IMAGE_QA | Family.VIDEO_QA:
            return QuestionAnswering(speaker, config, manifest, answers)
        case Family.IMAGE_CAPTION | Family.VIDEO_CAPTION:
            return Captioning(speaker, manifest, family.task)
        case Family.IMAGE_GROUNDING:
            return Grounding(inference, config, manifest)
        case Family.IMAGE_RETRIEVAL | Family.VIDEO_RETRIEVAL:
            return MediaRetrieval(inference, config, manifest, family.task, stream)
        case _:
            raise ValueError(f"{family} is evaluated otherwise")


def _check(fault_of: Callable[[int, Record], str | None], manifest: Manifest, own: range, stream: str) -> None:
    """Texts are checked before hours of work. What cannot be read at all is left out later, like what cannot be decoded."""
    for index in own:
        try:
            fault = fault_of(index, read_record(manifest, index))
        except BadSample:
            continue
        if fault is not None:
            place = manifest.place(index)
            raise UserError(f"{stream}, sample {index} ({manifest.entry(index).key} in {place.dataset}/{place.shard}): {fault}")
