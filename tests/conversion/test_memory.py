"""A file of the released large size is converted in about the memory that its bytes take."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megatron_mplug2.conversion.huggingface.weight_files import FILE_BYTES, INDEX, read_weights
from tests.conversion.exported import vocabulary
from tests.models.sizes import released_shapes
from tests.shared import needs_shared

LIMIT = 1.3
"""Times the file's size."""
ROOM = 15 * 10**9
"""Bytes of disk that it takes."""

CONVERT = """
import resource, sys
from pathlib import Path
from megatron_mplug2.conversion.official import official_to_folder
official_to_folder(*map(Path, sys.argv[1:]), model=None, bert_config=None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@needs_shared
@pytest.mark.long
def test_a_large_file(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < ROOM:
        pytest.skip(f"less than {ROOM / 1e9:.0f} GB of disk")
    file, out = tmp_path / "large.pth", tmp_path / "out"
    try:
        # Zeros take no memory before they are written.
        torch.save({"model": {name: torch.zeros(like.shape) for name, like in released_shapes("large").items()}}, file)
        arguments = [str(file), str(out), str(vocabulary(tmp_path / "vocab.txt", 30522))]
        done = subprocess.run([sys.executable, "-c", CONVERT, *arguments], capture_output=True, text=True, timeout=250, check=True)
        assert 1024 * int(done.stdout) < LIMIT * file.stat().st_size
        weights = read_weights(out)
        assert round(sum(weight.size.numel() for weight in weights) / 1e6, 1) == 1031.5  # configs/model/large.yaml
        assert all(path.stat().st_size < FILE_BYTES + 10**6 for path in out.glob("*.safetensors")) and (out / INDEX).is_file()
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
