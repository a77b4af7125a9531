"""The typed tree of every configurable number, frozen once built.

The numbers of the method carry their source: [CODE] the released mPLUG-2 code, [M1] the predecessor mPLUG's pretraining
config, [PAPER] arXiv 2302.00402. A number without a tag is this project's own choice.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from megatron_mplug2.config import checks


class Task(StrEnum):
    """What one training step is about; every rank does the same task in the same step."""

    TEXT = "text"
    IMAGE_TEXT = "image_text"
    VIDEO_TEXT = "video_text"


class Averaging(StrEnum):
    """How the instruction-LM loss is averaged. A sample here is an instruction with its answer."""

    SAMPLE = "sample"
    """A mean over samples of their tokens' mean."""
    TOKEN = "token"
    """One mean over all tokens ([CODE] video captions)."""
    SUM = "sum"
    """A mean over samples of their tokens' sum: the likelihood of whole answers ([CODE] video QA)."""


class Answers(StrEnum):
    """Which answers to a question are taught where several people answered (VQAv2: ten)."""

    MOST_FREQUENT = "most_frequent"
    ALL = "all"
    """Each different one, weighted by the share of the people who gave it [M1, as ALBEF]."""


class CaptionLoss(StrEnum):
    """What captions are finetuned by."""

    LIKELIHOOD = "likelihood"
    """The cross-entropy of the corpus's captions."""
    CIDER = "cider"
    """The CIDEr-D of captions that the model draws, against that of its likeliest one (SCST, Rennie et al. 2017, arXiv 1612.00563)."""


class Negatives(StrEnum):
    """What a sample of VLC is contrasted with."""

    GLOBAL = "global"
    """The global batch, exactly."""
    QUEUE = "queue"
    """Features by averaged weights: of the global batch, and of the batches before it; with soft targets (ALBEF, mPLUG)."""


class Block(StrEnum):
    """Kinds of blocks in the model's chain. Heads are none: they are small, and record losses."""

    VISION = "vision"
    TEXT = "text"
    UNIVERSAL = "universal"
    FUSION = "fusion"
    DECODER = "decoder"


class Module(StrEnum):
    """Parts of the model, by the canonical names of weights. A tied word embedding is its embedding's, not its head's."""

    VISION = "vision"
    """The vision encoder without its local temporal modules."""
    TEMPORAL = "temporal"
    """The local temporal modules inside the vision encoder."""
    TEXT = "text"
    UNIVERSAL = "universal"
    FUSION = "fusion"
    DECODER = "decoder"
    HEADS = "heads"


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"


class OnBadStep(StrEnum):
    """What follows a step whose loss or gradient norm is no number, or a spike."""

    STOP = "stop"
    """The run ends before the update."""
    SKIP = "skip"
    """The step makes no update: weights, moments and Adam's count stay as they were, and the next step's samples follow."""
    ROLL_BACK = "roll_back"
    """Weights and optimizer go back to the newest checkpoint; the samples of all steps since it are left out."""


class FamilyKind(StrEnum):
    """What a family learns from a sample, whether that is a picture or a clip."""

    QA = "qa"
    """Answers to its questions; a caption is not needed."""
    CAPTION = "caption"
    """A caption, asked by `objectives.lm`'s instruction."""
    GROUNDING = "grounding"
    """The box of what a phrase speaks of, as four numbers."""
    RETRIEVAL = "retrieval"
    """Which caption belongs to it, by VLC and VLM."""
    CLASSIFICATION = "classification"
    """Its label, one of a closed list: the decoder says its words."""
    ENTAILMENT = "entailment"
    """What it says to a sentence, which is its caption: a label of a closed list, likewise."""


class Family(StrEnum):
    """Kinds of downstream tasks: what is learned from a sample and how it is judged."""

    IMAGE_QA = "image_qa"
    VIDEO_QA = "video_qa"
    IMAGE_CAPTION = "image_caption"
    VIDEO_CAPTION = "video_caption"
    IMAGE_GROUNDING = "image_grounding"
    IMAGE_RETRIEVAL = "image_retrieval"
    VIDEO_RETRIEVAL = "video_retrieval"
    IMAGE_CLASSIFICATION = "image_classification"
    VIDEO_CLASSIFICATION = "video_classification"
    TEXT_CLASSIFICATION = "text_classification"
    """Of a text, or of two (GLUE)."""
    IMAGE_ENTAILMENT = "image_entailment"
    """SNLI-VE."""
    PAIR_ENTAILMENT = "pair_entailment"
    """What two pictures together say to a sentence (NLVR2): seen as a clip of two frames, left and right."""

    @property
    def task(self) -> Task:
        """The stream that its samples come from."""
        tasks = {"video": Task.VIDEO_TEXT, "text": Task.TEXT}
        return tasks.get(self.value.partition("_")[0], Task.IMAGE_TEXT)

    @property
    def classifies(self) -> bool:
        """Whether it chooses among a closed list, `downstream.classes`."""
        return self.kind in (FamilyKind.CLASSIFICATION, FamilyKind.ENTAILMENT)

    @property
    def pictures(self) -> int:
        """Pictures of a sample of the stream of pictures."""
        return 2 if self is Family.PAIR_ENTAILMENT else 1

    @property
    def kind(self) -> FamilyKind:
        return FamilyKind(self.value.partition("_")[2])


class EngineChoice(StrEnum):
    """What shares gradients and optimizer out over data-parallel ranks. The model, the data and the checkpoints are the same."""

    MEGATRON = "megatron"
    """Megatron-Core: every layout, ZeRO-1 by `layout.zero1`."""
    DEEPSPEED = "deepspeed"
    """DeepSpeed, by the section `deepspeed`: ZeRO 1, 2 and 3, on one pipeline stage."""


class ParamGroup(StrEnum):
    """Groups of parameters with a learning rate and a weight decay of their own (see `training.optimizer`)."""

    VISION = "vision"
    TEMPORAL = "temporal"
    REST = "rest"


class Frozen(BaseModel):
    """A node of the tree: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class VisionConfig(Frozen):
    """Dual-vision encoder: a CLIP ViT with local temporal modules."""

    width: int = Field(gt=0)
    blocks: int = Field(gt=0)
    heads: int = Field(gt=0)
    ffn: int = Field(gt=0)
    patch: int = Field(gt=0)
    """Side of a patch, in pixels."""
    resolution: int = Field(gt=0)
    """Side of the picture that the position table was made for, in pixels; other sizes interpolate the table."""
    temporal_modules: Literal[1, 2] = 2
    """Local temporal modules in a block: 2 in the released code (before attention and before the FFN), 1 in the paper's figure 2b."""
    temporal_on_images: bool = False
    """Run the temporal modules on pictures (T=1) too, as the released code does; the paper runs them on video only."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Drop-path rate of the last block; grows linearly from 0 at the first [CODE]."""
    layer_norm_eps: float = 1e-5  # [CODE]

    @property
    def grid(self) -> int:
        """Patches along one side of the position table."""
        return self.resolution // self.patch


class TextConfig(Frozen):
    """What the BERT-shaped parts share: text encoder, universal layers, fusion and decoder."""

    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    ffn: int = Field(gt=0)
    layers: int = Field(gt=0)
    """Text encoder layers, the universal ones among them."""
    universal_layers: int = Field(default=2, ge=2)  # [CODE] num_uni_layer
    """The last ones of `layers`: their self-attention and FFN serve text and vision."""
    queries: int = Field(default=50, gt=0)  # [CODE] latents
    vocab_size: int = Field(default=30522, gt=0)
    positions: int = Field(default=512, gt=0)
    token_types: int = Field(default=2, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)  # [CODE] hidden_dropout_prob
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)  # [CODE] attention_probs_dropout_prob
    layer_norm_eps: float = 1e-12  # [CODE]


class ModelConfig(Frozen):
    """Sizes of every module."""

    vision: VisionConfig
    text: TextConfig
    fusion_layers: int = Field(gt=0)
    decoder_layers: int = Field(gt=0)
    contrastive_width: int = Field(default=256, gt=0)  # [M1] embed_dim
    init_std: float = Field(default=0.02, gt=0)  # [CODE] initializer_range

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "ModelConfig":
        checks.report(checks.model_errors(self), info.context)
        return self


class LayoutConfig(Frozen):
    """How the ranks share the work: world size = tensor x pipeline x data."""

    tensor: int = Field(default=1, gt=0)
    pipeline: int = Field(default=1, gt=0)
    data: int = Field(default=1, gt=0)
    sequence_parallel: bool = False
    zero1: bool = True
    """Shard the optimizer state over data-parallel ranks (Megatron-Core's DistributedOptimizer). `training.engine: deepspeed` has stages of
    its own and does not read it."""
    overlap_grad_reduce: bool = False
    overlap_param_gather: bool = False
    stage_starts: tuple[int, ...] | None = None
    """Index in the chain of the first block of each stage after stage 0; None cuts by cost."""

    @property
    def world_size(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def shards_optimizer(self) -> bool:
        """`zero1` where there is more than one rank to shard over: alone, a rank would scatter and gather for nothing."""
        return self.zero1 and self.data > 1

    @property
    def overlaps_reduction(self) -> bool:
        return self.overlap_grad_reduce and self.data > 1

    @property
    def overlaps_gathering(self) -> bool:
        return self.overlap_param_gather and self.data > 1


class MLMConfig(Frozen):
    """Masked language modelling on text [CODE, ALBEF convention]."""

    weight: float = Field(default=1.0, ge=0)
    probability: float = Field(default=0.15, gt=0, lt=1)  # [M1]
    mask_share: float = Field(default=0.8, ge=0, le=1)
    """Share of the chosen tokens that become [MASK]."""
    random_share: float = Field(default=0.1, ge=0, le=1)
    """Share that becomes a random token; the rest stays."""


class QueueConfig(Frozen):
    """Momentum encoders and their feature queue, for `negatives: queue`."""

    size: int = Field(default=65536, gt=0)  # [M1] queue_size
    """Samples that stay in the queue, a multiple of the global batch."""
    momentum: float = Field(default=0.995, ge=0, lt=1)  # [M1]
    """Share that a weight's average keeps at a step."""
    alpha: float = Field(default=0.4, ge=0, le=1)  # [M1]
    """Share of the averaged model's similarities in the targets; the rest is on samples of equal ids."""
    alpha_ramp_steps: int = Field(default=14000, ge=0)
    """Steps in which alpha rises from 0, linearly: [M1] the first epoch, 14 M pairs at a global batch of 1,024."""


class VLCConfig(Frozen):
    """Vision-language contrast over the whole global batch [M1]."""

    weight: float = Field(default=1.0, ge=0)
    negatives: Negatives = Negatives.GLOBAL
    queue: QueueConfig = QueueConfig()
    temperature: float = Field(default=0.07, gt=0)  # [M1]
    min_temperature: float = Field(default=0.001, gt=0)  # ALBEF's clamp
    max_temperature: float = Field(default=0.5, gt=0)  # ALBEF's clamp
    chunk: int = Field(default=4096, gt=0)
    """Columns of the similarity matrix that live at once."""

    @property
    def queued(self) -> bool:
        """Whether momentum encoders and their queue are kept."""
        return self.weight > 0 and self.negatives is Negatives.QUEUE


class VLMConfig(Frozen):
    """Vision-language matching with hard negatives, 1 positive : 2 negatives [M1]."""

    weight: float = Field(default=1.0, ge=0)
    group: int = Field(default=16, gt=1)
    """Consecutive samples among which negatives are drawn; every layout keeps a group inside a microbatch."""


class LMConfig(Frozen):
    """Instruction-based language modelling by the shared decoder."""

    weight: float = Field(default=1.0, ge=0)
    averaging: Averaging = Averaging.SAMPLE
    instructions: int = Field(default=1, gt=0)
    """Instructions a picture or clip gets in a step: the first asks for a caption, the others are its questions. A family of questions
    (`downstream.family`) draws so many of its questions, each at most once; one of captions draws so many captions; one of grounding so
    many of its phrases. With `answers: all` they are rows: a question takes one for each of its answers."""
    answers: Answers = Answers.MOST_FREQUENT
    image_instruction: str = "what does the image describe?"  # [PAPER figure 1]
    video_instruction: str = "what does the video describe?"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a token's target that is spread evenly over the vocabulary (Szegedy et al. 2016, section 7: 0.1), as in torch's
    `CrossEntropyLoss`; in validation too."""


class ObjectivesConfig(Frozen):
    mlm: MLMConfig = MLMConfig()
    vlc: VLCConfig = VLCConfig()
    vlm: VLMConfig = VLMConfig()
    lm: LMConfig = LMConfig()


class DatasetConfig(Frozen):
    """A folder of shards, and how often its samples come. The folder alone may stand for a dataset that is seen once an epoch."""

    folder: str = Field(min_length=1)
    """A path, or a URL of http(s) or s3."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the stream's samples, relative to the weights of its other datasets, whatever their sizes."""
    repeat: int = Field(default=1, gt=0)
    """How often each sample comes in an epoch of the stream, where there are no weights."""

    @property
    def scheme(self) -> str | None:
        """Of a URL; None for a path."""
        scheme, separator, _ = self.folder.partition("://")
        return scheme if separator else None

    @property
    def plain(self) -> bool:
        return self.weight is None and self.repeat == 1

    @model_validator(mode="before")
    @classmethod
    def _folder_alone(cls, value: Any) -> Any:
        return {"folder": str(value)} if isinstance(value, str | Path) else value

    @model_serializer(mode="wrap")
    def _as_written(self, whole: SerializerFunctionWrapHandler) -> Any:
        return self.folder if self.plain else whole(self)


class SplitConfig(Frozen):
    """Datasets of every stream; a stream without one cannot be in a mixture."""

    text: tuple[DatasetConfig, ...] = ()
    image_text: tuple[DatasetConfig, ...] = ()
    video_text: tuple[DatasetConfig, ...] = ()

    def of(self, task: Task) -> tuple[DatasetConfig, ...]:
        datasets: tuple[DatasetConfig, ...] = getattr(self, task.value)
        return datasets


class CacheConfig(Frozen):
    """Where this node keeps what it read of remote folders; its ranks share it, and so may runs."""

    folder: Path | None = None
    """On a disk of the node. Remote folders need it: their indices lie here too, beside the limit."""
    limit_gb: float = Field(default=100.0, gt=0)
    """Most gigabytes (10^9 bytes) of tars' contents that are kept; what was not read for longest goes first."""


class DecoderChoice(StrEnum):
    """What decodes pictures and clips; the frames are the same, the pixels nearly."""

    AUTO = "auto"
    """DALI on a GPU where it is installed and `data.workers` is 0 (worker processes cannot use a GPU), else PyAV."""
    PYAV = "pyav"
    """PyAV (FFmpeg) and PIL, on the CPU."""
    DALI = "dali"
    """NVIDIA DALI: on a GPU with `data.workers` 0, else on the CPU; PyAV decodes what it cannot."""


class ResizeFilter(StrEnum):
    """How a frame becomes a square."""

    BICUBIC = "bicubic"
    """Antialiased."""
    NEAREST = "nearest"
    """torch's "nearest", not antialiased."""


class RandAugmentConfig(Frozen):
    """Operations on the pixels of a training sample, the same on all frames of a clip."""

    operations: int = Field(default=0, ge=0)
    """How many, one after the other; released: 2 [CODE]."""
    magnitude: int = Field(default=5, ge=0, le=10)  # [CODE] clips; pictures 7
    """Strength of each, of 10."""


class DataConfig(Frozen):
    vocab: Path
    """WordPiece vocabulary, one piece a line (bert-base-uncased's), or sentencepiece model; `mplug2 data tokenizer` trains both."""
    train: SplitConfig = SplitConfig()
    validation: SplitConfig = SplitConfig()
    test: SplitConfig = SplitConfig()
    cache: CacheConfig = CacheConfig()
    staging: Path | None = None
    """Folder on a disk of the node, into which the tars of the training streams are copied while the run goes on; None copies nothing."""
    text_length: int = Field(default=32, gt=1)
    """Tokens of a caption or an instruction, padded or cut."""
    document_length: int = Field(default=128, gt=1)
    """Tokens of a text sample: MLM input, and prefix of text generation."""
    target_length: int = Field(default=32, gt=1)
    """Tokens that the decoder is taught, [CLS] and [SEP] counted."""
    crop_scale: tuple[float, float] = (0.2, 1.0)  # [CODE] image pretraining
    """Area of the random crop in training, as a share of the picture; one crop for all frames of a clip."""
    flip: bool = False
    """Mirror half of the training samples. Off by default: captions name directions."""
    randaugment: RandAugmentConfig = RandAugmentConfig()
    test_transform: ResizeFilter = ResizeFilter.BICUBIC
    """How clips of validation and test are resized. The released code takes the nearest pixel: for figures to compare with its own."""
    decoder: DecoderChoice = DecoderChoice.AUTO
    workers: int = Field(default=1, ge=0)
    """Decoding processes a rank (of tensor-parallel ranks only the first decodes); more than `prefetch` are of no use. 0 decodes in a
    thread of the training process, as DALI on a GPU needs it. Nobody watches there: a file that hangs or crashes its decoder takes the run
    with it."""
    sample_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds that one sample may take to read and decode before its process is replaced, and on the second time the sample."""
    prefetch: int = Field(default=4, gt=0)
    """Global batches that are prepared ahead; a rank's part of each lies in its memory, with `workers` 0 and DALI in its GPU's."""
    bad_sample_limit: float = Field(default=0.05, ge=0, le=1)
    """Share of substituted samples over which the run stops."""


class PhaseConfig(Frozen):
    """A stretch of training with one mixture, frame count and resolution."""

    steps: int = Field(gt=0)
    text: float = Field(default=0.0, ge=0)
    """Share of the steps on this stream, relative to the other two."""
    image_text: float = Field(default=0.0, ge=0)
    video_text: float = Field(default=0.0, ge=0)
    frames: int = Field(default=4, gt=0)
    """Frames sampled from a clip."""
    resolution: int = Field(default=224, gt=0)
    """Side of pictures and frames in pixels, a multiple of the patch."""

    def share(self, task: Task) -> float:
        share: float = getattr(self, task.value)
        return share


class GroupRule(Frozen):
    lr_scale: float = Field(default=1.0, ge=0)
    decay_scale: float = Field(default=1.0, ge=0)


class OptimizerConfig(Frozen):
    lr: float = Field(default=1e-4, gt=0)  # [M1] base
    min_lr: float = Field(default=1e-6, ge=0)  # [M1]
    warmup_steps: int = Field(default=2000, ge=0)  # [M1]
    weight_decay: float = Field(default=0.02, ge=0)  # [M1]
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    clip_norm: float = Field(default=1.0, gt=0)  # [CODE] DeepSpeed config
    vision: GroupRule = GroupRule(lr_scale=0.1)  # [M1] 1e-5 against 1e-4
    temporal: GroupRule = GroupRule()
    rest: GroupRule = GroupRule()
    decay_norms_and_biases: bool = False
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of the rate from each block of the vision encoder and of the text encoder to the block before it: early blocks move less
    (ELECTRA, Clark et al. 2020, table 7: 0.8 for base, 0.9 for large). 1: all have their group's rate."""

    def rule(self, group: ParamGroup) -> GroupRule:
        rule: GroupRule = getattr(self, group.value)
        return rule


class DeepSpeedConfig(Frozen):
    """What DeepSpeed shards, for `training.engine: deepspeed`."""

    zero_stage: Literal[1, 2, 3] = 2
    """Over data-parallel ranks: 1 the optimizer state, 2 gradients too, 3 weights too, which each module gathers when it runs."""
    offload_optimizer: bool = False
    """Main weights and optimizer state lie in host memory, and are updated there."""


class InitialiseConfig(Frozen):
    """Weights of another run to begin with; what is not named begins as ever."""

    checkpoint: Path
    """A checkpoint's folder, or a run's, whose newest good one is taken."""
    modules: tuple[str, ...] = Field(min_length=1)
    """Beginnings of canonical names, such as "vision" or "text.layers.0": all weights under each, which both models must have alike."""


def _named_blocks(value: Any) -> Any:
    """The words `none` and `full` of `training.recompute`."""
    if isinstance(value, str) and value not in ("none", "full"):
        raise PydanticCustomError("recompute", "must be none, full or a list of {blocks}", {"blocks": ", ".join(Block)})
    return {"none": (), "full": tuple(Block)}[value] if isinstance(value, str) else value


def _in_order(modules: tuple[Module, ...]) -> tuple[Module, ...]:
    """Each once, so that a resume finds the same modules the same however they were written."""
    return tuple(module for module in Module if module in modules)


class TrainingConfig(Frozen):
    global_batch: int = Field(gt=0)
    """Samples a step."""
    microbatch: int = Field(gt=0)
    """Samples a forward pass of one rank."""
    precision: Precision = Precision.FP32
    engine: EngineChoice = EngineChoice.MEGATRON
    recompute: Annotated[tuple[Block, ...], BeforeValidator(_named_blocks)] = ()
    """Kinds of blocks of which only what enters them is kept, the rest computed again in the backward pass; `full` names all, `none` none.
    There is no finer choice: fused attention, the usual one, keeps nothing that grows with the square of a length."""
    frozen: Annotated[tuple[Module, ...], AfterValidator(_in_order)] = ()
    """Modules whose weights stay as the run begins with them (`initialise_from`): no gradient, no optimizer state, no backward pass in
    front of the first trained weight. A block without a trained weight runs without dropout, as a fixed function of what enters it."""
    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, gt=0)
    validate_every: int = Field(default=0, ge=0)
    """Steps between validations; 0 never."""
    validation_batches: int = Field(default=4, gt=0)
    """Global batches of each stream that a validation takes."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Share that the average over steps of a weight keeps at a step (Polyak & Juditsky 1992; usual in long runs: 0.9999). 0: none.
    Validation and evaluation take the averages; training goes on from the weights, and an export takes them."""
    checkpoint_every: int = Field(default=1000, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    """The last ones that stay."""
    keep_every: int = Field(default=0, ge=0)
    """Checkpoints after a multiple of this many steps stay for good; 0 none."""
    async_save: bool = True
    """Write checkpoints beside the next steps, from a copy in host memory as large as what the rank saves."""
    threads: int = Field(default=1, gt=0)
    """CPU threads a rank."""
    on_bad_step: OnBadStep = OnBadStep.STOP
    bad_step_limit: int = Field(default=3, gt=0)
    """Bad steps in a row at which a run stops all the same."""
    spike_factor: float = Field(default=0.0, ge=0)
    """A step is a spike where its weighted loss or its gradient norm is more than so many times the median of its task's last steps;
    0: none is."""
    hang_timeout_s: float = Field(default=1800.0, ge=0, le=3600)
    """Without progress of a rank for so long (a step's section, a batch of validation) the run is ended; 0 never. At most half of torch's
    own limit, `parallel.topology.GROUP_TIMEOUT`."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Peak of one device at the run's precision, for MFU; None takes a known GPU's from `observability.efficiency`."""
    deterministic: bool = False
    """Bit-identical repetition on GPUs, slower; on the CPU a run repeats anyway."""


class Better(StrEnum):
    LOWER = "lower"
    HIGHER = "higher"


class BestConfig(Frozen):
    """By which figure of validation a run's best checkpoint is found: it is saved, stays, and is what an evaluation takes."""

    figure: str = Field(min_length=1)
    """As validation names it, such as "video_text/loss/lm" or "video_text/retrieval/t2v_r1"."""
    better: Better = Better.LOWER
    patience: int = Field(default=0, ge=0)
    """Validations in a row without a better figure after which the run is finished; 0: it goes to the end of its schedule."""


class ClassesConfig(Frozen):
    """The closed list that a family of classification or entailment chooses from, and how an evaluation looks at it."""

    file: Path
    """A text file with a class on each line, in the words of the samples' labels; `mplug2 data classes` writes it from shards. Of two
    classes the last is the one that F1 is about. Where all are numbers, a label is taught as the nearest of them, and the model's answer is
    their mean by probability."""
    prompts: tuple[str, ...] = ()
    """Zero-shot: texts with {} for the class, such as "a photo of a {}". An evaluation then takes the class whose texts are most like the
    picture or clip by VLC, as CLIP does (Radford et al. 2021, section 3.1), instead of what the decoder says; nothing is finetuned."""
    segments: int = Field(default=1, gt=0)
    """Choices of frames of a clip over which an evaluation averages the probabilities; 1: the middle of each segment."""
    crops: Literal[1, 3] = 1
    """Crops of each over which it averages too; 1: the whole picture or frame."""


class DownstreamConfig(Frozen):
    """What a run is finetuned for."""

    family: Family
    classes: ClassesConfig | None = None
    """None for families that have no closed list."""
    caption_loss: CaptionLoss = CaptionLoss.LIKELIHOOD
    best: BestConfig | None = None
    """None keeps the last checkpoints alone."""


class RunConfig(Frozen):
    """Everything a run is made of."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    run_dir: Path
    """Folder of logs, checkpoints and the resolved config."""
    model: ModelConfig
    data: DataConfig
    schedule: tuple[PhaseConfig, ...] = Field(min_length=1)
    training: TrainingConfig
    objectives: ObjectivesConfig = ObjectivesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    layout: LayoutConfig = LayoutConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    downstream: DownstreamConfig | None = None
    """None: pretraining."""
    initialise_from: InitialiseConfig | None = None
    """Read where the run begins, not where it goes on."""

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.schedule)

    @property
    def pictures(self) -> int:
        """Pictures of a sample of the stream of pictures."""
        return 1 if self.downstream is None else self.downstream.family.pictures

    @property
    def microbatches(self) -> int:
        """Microbatches a step on each data-parallel rank."""
        return self.training.global_batch // (self.training.microbatch * self.layout.data)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "RunConfig":
        checks.report(checks.run_errors(self), info.context)
        return self
