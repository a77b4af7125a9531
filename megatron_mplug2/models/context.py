"""What every module of a stage is built with: sizes, place in the layout, dropout keys, Megatron-Core's configurations."""

from dataclasses import dataclass
from functools import cached_property

import torch
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional as F

from megatron_mplug2.config.model import ModelConfig
from megatron_mplug2.config.training import Precision
from megatron_mplug2.models.kernels import quick_gelu
from megatron_mplug2.parallel.dropout import KeyedDropout
from megatron_mplug2.parallel.sequence import SequenceShards
from megatron_mplug2.parallel.topology import Topology


def dtype_of(precision: Precision) -> torch.dtype:
    return torch.bfloat16 if precision is Precision.BF16 else torch.float32


@dataclass(frozen=True, kw_only=True)
class ModelContext:
    config: ModelConfig
    topology: Topology
    dropout: KeyedDropout
    precision: Precision = Precision.FP32

    @cached_property
    def sequence(self) -> SequenceShards:
        return SequenceShards(self.topology)

    @cached_property
    def vision(self) -> TransformerConfig:
        """CLIP blocks: quick GELU, no dropout."""
        vision = self.config.vision
        return self._core_config(vision.width, vision.heads, vision.ffn, vision.layer_norm_eps, quick_gelu)

    @cached_property
    def text(self) -> TransformerConfig:
        """BERT layers: exact GELU."""
        text = self.config.text
        return self._core_config(text.hidden, text.heads, text.ffn, text.layer_norm_eps, F.gelu)

    def _core_config(self, width: int, heads: int, ffn: int, eps: float, activation: object) -> TransformerConfig:
        return TransformerConfig(
            num_layers=1,
            hidden_size=width,
            num_attention_heads=heads,
            ffn_hidden_size=ffn,
            layernorm_epsilon=eps,
            activation_func=activation,
            tensor_model_parallel_size=self.topology.tensor_size,
            pipeline_model_parallel_size=self.topology.pipeline_size,
            sequence_parallel=self.topology.sequence_parallel,
            pipeline_dtype=dtype_of(self.precision),
            bf16=self.precision is Precision.BF16,
            # Weights are made on the CPU in fp32, initialised by name, then moved and cast.
            use_cpu_initialization=True,
            perform_initialization=False,
            add_bias_linear=True,
            masked_softmax_fusion=False,
            bias_dropout_fusion=False,
            persist_layer_norm=False,
            # Every loss is divided by its own global count: gradients are plain sums over microbatches and ranks.
            calculate_per_token_loss=True,
            deallocate_pipeline_outputs=True,
        )
