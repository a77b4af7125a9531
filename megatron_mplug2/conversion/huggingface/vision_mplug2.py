"""The dual-vision encoder: CLIP's ViT on every frame, with local temporal modules between frames."""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_mplug2 import MPlug2Config
from .layers_mplug2 import FeedForward, SelfAttention, quick_gelu

MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """[b, 3, T, R, R] with CLIP's mean and deviation, from uint8 levels. Real numbers are taken to be so already."""
    if pixels.is_floating_point():
        return pixels
    mean, deviation = (torch.tensor(numbers, device=pixels.device).view(3, 1, 1, 1) for numbers in (MEAN, DEVIATION))
    return pixels.float().div_(255).sub_(mean).div_(deviation)


class VisionEmbedding(nn.Module):
    """Patches of every frame, class token, position table (equal for all frames), LayerNorm."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        width = config.vision_width
        self.stride, self.grid = config.vision_patch, config.vision_resolution // config.vision_patch
        self.patch = nn.Parameter(torch.empty(width, 3, self.stride, self.stride))
        self.class_token = nn.Parameter(torch.empty(width))
        self.position = nn.Parameter(torch.empty(1 + self.grid**2, width))
        self.norm = nn.LayerNorm(width, eps=config.vision_layer_norm_eps)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[b, 3, T, R, R] -> [b * T, 1 + patches, width], frames of a clip next to each other."""
        frames = normalised(pixels).transpose(1, 2).flatten(0, 1).to(self.patch.dtype)
        patches = F.conv2d(frames, self.patch, stride=self.stride)
        tokens = torch.cat([self.class_token.expand(len(frames), 1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return self.norm(tokens + self.positions(patches.shape[-1]))

    def positions(self, grid: int) -> torch.Tensor:
        """The table for a grid x grid picture: class row kept, the rest bilinear (align_corners false)."""
        if grid == self.grid:
            return self.position
        table = self.position[1:].T.reshape(1, -1, self.grid, self.grid)
        resized = F.interpolate(table.float(), size=(grid, grid), mode="bilinear").to(table.dtype)
        return torch.cat([self.position[:1], resized.flatten(2)[0].T])


class LocalTemporal(nn.Module):
    """Bottleneck, 3-tap depthwise convolution over time, quick GELU, back to full width; the class token stays as it is."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        width, bottleneck = config.vision_width, config.vision_width // 2
        self.norm = nn.LayerNorm(width, eps=config.vision_layer_norm_eps)
        self.down = nn.Linear(width, bottleneck)
        self.taps = nn.Parameter(torch.empty(bottleneck, 3))
        self.taps_bias = nn.Parameter(torch.empty(bottleneck))
        self.up = nn.Linear(bottleneck, width)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """[b * T, 1 + patches, width] -> the residual branch, zero at the class token."""
        y = self.down(self.norm(x[:, 1:])).unflatten(0, (-1, frames))
        past, now, future = self.taps.unbind(1)
        out = y * now + self.taps_bias
        if frames > 1:
            out = out + F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0)) * past + F.pad(y[:, 1:], (0, 0, 0, 0, 0, 1)) * future
        return F.pad(self.up(quick_gelu(out)).flatten(0, 1), (0, 0, 1, 0))


class VisionBlock(nn.Module):
    """Pre-LN: [local temporal], spatial self-attention, [local temporal], FFN, each with a residual."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        width, eps = config.vision_width, config.vision_layer_norm_eps
        self.temporal = nn.ModuleList(LocalTemporal(config) for _ in range(config.vision_temporal_modules))
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.attention = SelfAttention(width, config.vision_heads, 0.0)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.mlp = FeedForward(width, config.vision_ffn, quick=True)

    def forward(self, x: torch.Tensor, frames: int, *, temporal: bool) -> torch.Tensor:
        """[b * T, 1 + patches, width] -> same."""
        if temporal:
            x = x + self.temporal[0](x, frames)
        x = x + self.attention(self.attention_norm(x))
        if temporal and len(self.temporal) == 2:
            x = x + self.temporal[1](x, frames)
        return x + self.mlp(self.mlp_norm(x))


class VisionOutput(nn.Module):
    """One sequence a clip: class token averaged over frames, then all patches, frame by frame; LayerNorm; projection to the text width."""

    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.vision_width, eps=config.vision_layer_norm_eps)
        self.projects = config.vision_width != config.text_hidden
        if self.projects:
            self.projection = nn.Linear(config.vision_width, config.text_hidden)
            self.projection_norm = nn.LayerNorm(config.text_hidden, eps=config.text_layer_norm_eps)
            self.dropout = nn.Dropout(config.text_dropout)

    def forward(self, x: torch.Tensor, frames: int) -> torch.Tensor:
        """[b * T, 1 + patches, width] -> [b, 1 + T * patches, hidden]."""
        clips = x.unflatten(0, (-1, frames))
        y = self.norm(torch.cat([clips[:, :, :1].mean(1), clips[:, :, 1:].flatten(1, 2)], dim=1))
        return self.dropout(self.projection_norm(self.projection(y))) if self.projects else y


class VisionEncoder(nn.Module):
    def __init__(self, config: MPlug2Config) -> None:
        super().__init__()
        self.temporal_on_images = config.vision_temporal_on_images
        self.embedding = VisionEmbedding(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vision_blocks))
        self.output = VisionOutput(config)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[b, 3, T, R, R] uint8 or normalised, T=1 for pictures -> [b, 1 + T * patches, hidden]."""
        frames = pixels.shape[2]
        x = self.embedding(pixels)
        for block in self.blocks:
            x = block(x, frames, temporal=frames > 1 or self.temporal_on_images)
        return self.output(x, frames)
