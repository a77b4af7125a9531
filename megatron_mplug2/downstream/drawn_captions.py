"""Self-critical training of captions (SCST, Rennie et al. 2017, arXiv 1612.00563): the model is taught the captions that it draws.

Each is weighed by how much its CIDEr-D is above that of the likeliest caption, which it would have said: the gradient of
`-advantage * log p(drawn)`, a mean over the drawn captions of the global batch. A draw is a pure function of (seed, step, sample, row), so
a resume draws the same ones, and other layouts too up to the rounding of their weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from megatron_mplug2.checkpoint.together import from_rank_0, together
from megatron_mplug2.data.batch import PAD, Batch, PairBatch
from megatron_mplug2.data.blank import is_blank
from megatron_mplug2.data.manifest import Manifest
from megatron_mplug2.data.quarantine import BadSample
from megatron_mplug2.data.samples import read_record
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.streams import open_stream
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError
from megatron_mplug2.evaluation.generation.generate import generate
from megatron_mplug2.evaluation.generation.sampling import draw_key
from megatron_mplug2.evaluation.generation.settings import Bounds, Decoding, Mode
from megatron_mplug2.evaluation.generation.speaker import CAPTION_TOKENS, answers_at_once, instructed_memory
from megatron_mplug2.evaluation.inference import EncodedMedia, Inference
from megatron_mplug2.evaluation.metrics.cider_reward import CiderReward
from megatron_mplug2.observability.sections import Section
from megatron_mplug2.training.interface import TrainingEngine
from megatron_mplug2.training.step import StepWork


class DrawnCaptions:
    """Called with a step's work, whose targets it replaces."""

    def __init__(self, engine: TrainingEngine) -> None:
        """Counts the n-grams of the training captions, on rank 0. Collective over the world; raises UserError for unusable data."""
        config = engine.config
        assert config.downstream is not None
        self._engine, self._task = engine, config.downstream.family.task
        self._tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
        self._manifest = open_stream(config.data, Split.TRAIN, self._task)
        reward: CiderReward | None = None
        with together(f"count the words of data.train.{self._task}"):
            if engine.topology.rank == 0:
                reward = CiderReward.of(_references(self._manifest))
                if reward.documents < 2:
                    raise UserError(f"data.train.{self._task} has captions of {reward.documents} samples: CIDEr needs two or more")
        reward = from_rank_0(reward)
        assert reward is not None
        self._reward = reward

    def __call__(self, work: StepWork) -> StepWork:
        self._engine.clock.enter(Section.DRAWING)
        with self._engine.evaluated():
            inference = Inference(self._engine.stage, self._engine.context)
            return replace(work, batches=[self._drawn(inference, batch, work.step) for batch in work.batches])

    def _drawn(self, inference: Inference, batch: Batch, step: int) -> PairBatch:
        assert isinstance(batch, PairBatch) and batch.media is not None
        samples = batch.sample_ids.tolist()
        each = len(batch.instructions) // len(samples)
        media = inference.encode_media(batch.media, self._task)
        own = list(range(len(samples)))
        rows = [row for row in own for _ in range(each)]
        keys = [draw_key(samples[row], f"{step}/{number % each}") for number, row in enumerate(rows)]
        drawn = self._said(inference, media, rows, batch.instructions, keys, Mode.SAMPLE)
        likeliest = self._said(inference, media, own, batch.instructions[::each], keys[::each], Mode.GREEDY)
        references = [_captions(self._manifest, sample) for sample in samples]
        usual = self._scores(likeliest, references)
        scores = self._scores(drawn, [references[row] for row in rows])
        advantages = torch.tensor([score - usual[row] for score, row in zip(scores, rows, strict=True)], device=drawn.device)
        return replace(batch, targets=drawn, advantages=advantages)

    def _said(
        self, inference: Inference, media: EncodedMedia, rows: Sequence[int], instructions: torch.Tensor, keys: Sequence[int], mode: Mode
    ) -> torch.Tensor:
        """[n, target_length] ids: `[CLS] tokens [SEP]`, padded; without `[SEP]` where a caption is as long as one may be."""
        data = self._engine.config.data
        decoding = Decoding(mode=mode, beams=1, seed=self._engine.config.training.seed)
        # From no token on: what is barred could not be drawn, and the likelihood that is taught is that of all tokens.
        most = min(CAPTION_TOKENS[1], data.target_length - 1)
        bounds = Bounds(min_length=0, max_length=most, start=self._tokenizer.cls, end=self._tokenizer.sep, pad=PAD)
        said = torch.full((len(rows), data.target_length), PAD, dtype=torch.int64, device=inference.device)
        at_once = answers_at_once(inference, media.length + data.text_length)
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            places = torch.tensor(rows[part], device=inference.device)
            memory = instructed_memory(inference, media, places, instructions[part])
            said[part, : 1 + most] = generate(inference, memory, keys[part], decoding, bounds).ids
        return said

    def _scores(self, said: torch.Tensor, references: Sequence[Sequence[str]]) -> list[float]:
        texts = [self._tokenizer.decode(row) for row in said.tolist()]
        return [self._reward.score(text, told) for text, told in zip(texts, references, strict=True)]


def _references(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    """Of every sample that has some; what cannot be read is no sample of a step either."""
    for index in range(len(manifest)):
        try:
            captions = _captions(manifest, index)
        except BadSample:
            continue
        if captions:
            yield captions


def _captions(manifest: Manifest, index: int) -> tuple[str, ...]:
    return tuple(caption for caption in read_record(manifest, index).captions if not is_blank(caption))
