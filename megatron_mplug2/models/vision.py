"""Dual-vision encoder: CLIP's ViT on every frame, with local temporal modules between frames (mPLUG-2, figure 2b and released code)."""

import torch
from torch import nn
from torch.nn import functional as F

from megatron_mplug2.data.decoding.pixels import normalised
from megatron_mplug2.models.attention import AttentionMask, mark_linears, mark_split, self_attention
from megatron_mplug2.models.bert import feed_forward
from megatron_mplug2.models.context import ModelContext
from megatron_mplug2.models.kernels import temporal_convolution
from megatron_mplug2.models.linear import ColumnParallelLinear, Linear, RowParallelLinear, with_bias
from megatron_mplug2.models.norm import add_layer_norm, layer_norm, mark_on_shard


class VisionEmbedding(nn.Module):
    """Patches of every frame, class token, position table (equal for all frames), LayerNorm."""

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        vision = context.config.vision
        self._patch, self._grid, self._sequence = vision.patch, vision.grid, context.sequence
        self.patch = nn.Parameter(torch.empty(vision.width, 3, vision.patch, vision.patch))
        self.class_token = nn.Parameter(torch.empty(vision.width))
        self.position = nn.Parameter(torch.empty(1 + vision.grid**2, vision.width))
        self.norm = nn.LayerNorm(vision.width, eps=vision.layer_norm_eps)

    def forward(self, media: torch.Tensor) -> torch.Tensor:
        """[b, 3, T, R, R] uint8, or normalised -> [1 + patches (local), b * T, width], frames of a clip next to each other."""
        frames = normalised(media).transpose(1, 2).flatten(0, 1).to(self.patch.dtype)
        patches = F.conv2d(frames, self.patch, stride=self._patch)
        position = self._positions(patches.shape[-1])
        tokens = patches.flatten(2).permute(2, 0, 1)
        class_token = self.class_token.expand(1, tokens.shape[1], -1)
        x = self.norm(torch.cat([class_token, tokens]) + position[:, None])
        return self._sequence.scatter(x)

    def _positions(self, grid: int) -> torch.Tensor:
        """The table for a grid x grid picture: class row kept, the rest bilinear (align_corners false), as released."""
        if grid == self._grid:
            return self.position
        table = self.position[1:].T.reshape(1, -1, self._grid, self._grid)
        resized = F.interpolate(table.float(), size=(grid, grid), mode="bilinear").to(table.dtype)
        return torch.cat([self.position[:1], resized.flatten(2)[0].T])


class LocalTemporal(nn.Module):
    """Bottleneck, 3-tap depthwise convolution over time, quick GELU, back to full width; the class token stays as it is.

    Column-parallel down, per-channel convolution on the rank's own channels, row-parallel up.
    """

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        vision, topology = context.config.vision, context.topology
        bottleneck = vision.width // 2  # [CODE] 512 of 1024, 384 of 768
        self.norm = add_layer_norm(vision.width, vision.layer_norm_eps, topology)
        self.down = ColumnParallelLinear(
            vision.width,
            bottleneck,
            config=context.vision,
            init_method=nn.init.zeros_,
            bias=True,
            gather_output=False,
            tp_group=topology.tensor_group,
        )
        self.taps = nn.Parameter(torch.empty(bottleneck // topology.tensor_size, 3))
        self.taps_bias = nn.Parameter(torch.empty(bottleneck // topology.tensor_size))
        self.up = RowParallelLinear(
            bottleneck,
            vision.width,
            config=context.vision,
            init_method=nn.init.zeros_,
            bias=True,
            input_is_parallel=True,
            skip_bias_add=False,
            tp_group=topology.tensor_group,
        )
        mark_linears(self)
        mark_split(self.taps, 0)
        mark_split(self.taps_bias, 0)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """Normed [tokens (local), b * T, width] -> the residual branch of all tokens: only patches have one."""
        y, _ = self.down(x)
        y = temporal_convolution(y.unflatten(1, (-1, frames)), self.taps, self.taps_bias)
        out, _ = self.up(y.flatten(1, 2))
        return out


class VisionBlock(nn.Module):
    """Pre-LN block: [local temporal], spatial self-attention, [local temporal], FFN, each with a residual and drop path."""

    def __init__(self, context: ModelContext, index: int) -> None:
        super().__init__()
        vision, topology = context.config.vision, context.topology
        self._keyed, self._sequence = context.dropout, context.sequence
        self._drop_path = vision.drop_path * index / max(vision.blocks - 1, 1)
        self.temporal = nn.ModuleList(LocalTemporal(context) for _ in range(vision.temporal_modules))
        self.attention_norm = add_layer_norm(vision.width, vision.layer_norm_eps, topology)
        self.attention = self_attention(context, context.vision, 0.0)
        self.mlp_norm = add_layer_norm(vision.width, vision.layer_norm_eps, topology)
        self.mlp = feed_forward(context, context.vision)

    def forward(self, x: torch.Tensor, frames: int, tokens: int, *, temporal: bool) -> torch.Tensor:
        """[tokens (local), b * T, width] -> same; `tokens` counts class token and patches of a frame."""
        samples = x.shape[1] // frames
        if temporal:
            patches = self._patches(tokens, x)
            x, branch = self._temporal(self._temporals[0], x, None, frames)
            x, normed = self.attention_norm(x, branch, patches)
        else:
            x, normed = self.attention_norm(x)
        attended = self._drop(with_bias(self.attention(normed, AttentionMask(length=tokens))), samples)
        if temporal and len(self.temporal) == 2:
            x, branch = self._temporal(self._temporals[1], x, attended, frames)
            x, normed = self.mlp_norm(x, branch, patches)
        else:
            x, normed = self.mlp_norm(x, attended)
        return x + self._drop(with_bias(self.mlp(normed)), samples)

    @property
    def _temporals(self) -> list[LocalTemporal]:
        return list(self.temporal)  # type: ignore[arg-type]

    def _temporal(
        self, module: LocalTemporal, x: torch.Tensor, before: torch.Tensor | None, frames: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x with the branch that came before, and a temporal module's branch of that."""
        x, normed = module.norm(x, before)
        branch: torch.Tensor = module(normed, frames)
        return x, self._drop(branch, x.shape[1] // frames)

    def _patches(self, tokens: int, like: torch.Tensor) -> torch.Tensor:
        """[tokens (local), 1, 1]: 1 at patches, 0 at the class token and at padding, which have no temporal branch."""
        held = self._sequence.positions(tokens)
        positions = torch.arange(held.start, held.stop, device=like.device)
        return ((positions > 0) & (positions < tokens)).to(like.dtype)[:, None, None]

    def _drop(self, branch: torch.Tensor, samples: int) -> torch.Tensor:
        return self._keyed.path(branch, self._drop_path, samples)


class VisionOutput(nn.Module):
    """One sequence a clip: class token averaged over frames, then all patches, frame by frame; LayerNorm; projection to the text width."""

    def __init__(self, context: ModelContext) -> None:
        super().__init__()
        vision, text, topology = context.config.vision, context.config.text, context.topology
        self._sequence, self._keyed, self._dropout = context.sequence, context.dropout, text.dropout
        self.norm = layer_norm(vision.width, vision.layer_norm_eps, topology)
        self._projects = vision.width != text.hidden
        if self._projects:
            # visn_fc and visn_layer_norm of the released code, which has them only where the widths differ.
            self.projection = Linear(vision.width, text.hidden)
            self.projection_norm = nn.LayerNorm(text.hidden, eps=text.layer_norm_eps)
            mark_on_shard(self.projection, topology)
            mark_on_shard(self.projection_norm, topology)

    def forward(self, x: torch.Tensor, frames: int, tokens: int) -> torch.Tensor:
        """[tokens (local), b * T, width] -> [1 + T * patches (local), b, hidden]."""
        whole = self._sequence.gather(x, tokens).unflatten(1, (-1, frames))
        class_token = whole[:1].mean(2)
        patches = whole[1:].permute(2, 0, 1, 3).flatten(0, 1)
        y = self.norm(self._sequence.scatter(torch.cat([class_token, patches])))
        if self._projects:
            y = self._keyed.hidden(self.projection_norm(self.projection(y)), self._dropout)
        return y
