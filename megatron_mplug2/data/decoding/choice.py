"""Which decoder a run uses."""

import importlib.util

import torch

from megatron_mplug2.config.data import DataConfig, DecoderChoice
from megatron_mplug2.data.decoding.contract import Decoder
from megatron_mplug2.data.decoding.dali import DaliDecoder
from megatron_mplug2.data.decoding.pyav import PyavDecoder
from megatron_mplug2.errors import UserError


def open_decoder(data: DataConfig) -> Decoder:
    """The decoder that `data.decoder` asks for. Raises UserError where it is not installed."""
    # A forked process cannot use a GPU that its parent uses.
    gpu = data.workers == 0 and torch.cuda.is_available()
    match data.decoder:
        case DecoderChoice.DALI:
            if not _dali_installed():
                raise UserError("data.decoder=dali needs NVIDIA DALI: pip install 'megatron-mplug2[dali]', or set data.decoder=pyav")
            return DaliDecoder(gpu=gpu)
        case DecoderChoice.AUTO if gpu and _dali_installed():
            return DaliDecoder(gpu=True)
        case _:
            return PyavDecoder()


def _dali_installed() -> bool:
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
