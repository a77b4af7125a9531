"""Configs of the model sizes, and the names and shapes of the released classes' weights."""

import ast
from pathlib import Path

import torch
import yaml

from megatron_mplug2.config.model import ModelConfig
from tests.shared import SHARED

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def model_of(name: str) -> ModelConfig:
    return ModelConfig.model_validate(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"])


def released_shapes(name: str, kind: str = "caption") -> dict[str, torch.Tensor]:
    """Every weight of the released class under its own name: a single stored byte, spread over the weight's shape."""
    assert SHARED is not None
    suffix = "" if name == "large" else f"_{name}"
    lines = (SHARED / "golden" / f"state_dict_{kind}{suffix}.txt").read_text().splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {key: torch.zeros((), dtype=torch.uint8).expand(ast.literal_eval(shape)) for key, shape, *_ in rows}
