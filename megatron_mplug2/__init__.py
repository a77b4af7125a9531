"""Pretraining of mPLUG-2 on Megatron-Core."""

import os

# Ranks and data workers are forked. Whether there is a GPU is asked of the driver's library: asking CUDA itself, as torch's own modules do
# when they are imported, would start it in the parent, and a fork of a process with CUDA cannot use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
