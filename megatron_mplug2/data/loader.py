"""The loader: for each step of the plan, this rank's microbatches, in an order that no rank, worker or resume changes."""

from collections.abc import Iterator, Sequence
from functools import partial

from megatron_mplug2.config.schema import PhaseConfig, RunConfig, Task
from megatron_mplug2.data.assemble import split_batch
from megatron_mplug2.data.batch import Batch
from megatron_mplug2.data.ledger import Ledger
from megatron_mplug2.data.mixture import PlannedStep, StepPlan
from megatron_mplug2.data.quarantine import check_limit
from megatron_mplug2.data.sampler import ManifestOrder, Part, Sampler
from megatron_mplug2.data.samples import Augmentation, SampleReader
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.state import DataState, check_same_data
from megatron_mplug2.data.step_reader import LoadedStep, MediaUse, Recorded, StepReader, Stream
from megatron_mplug2.data.streams import open_stream, open_streams
from megatron_mplug2.data.substitution import Agree, Fault, Substitution, Substitutions, settled
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.data.workers import Workers
from megatron_mplug2.errors import UserError
