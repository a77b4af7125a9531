"""An exported folder as a stranger uses it: in a process of its own, where neither Megatron nor this project can be imported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

_BEGIN = """
import io
import sys
from contextlib import redirect_stdout
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("megatron", "megatron_mplug2", "data_tools", "launchers", "tests"):
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Blocked())
import torch
from transformers import AutoModel, AutoProcessor, AutoTokenizer
inputs = torch.load(sys.argv[1], weights_only=True)
def model_of(folder):
    return AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
def processor_of(folder):
    return AutoProcessor.from_pretrained(folder, trust_remote_code=True)
def of_card(folder, **given):
    \"\"\"Lines that the code of its README.md prints, with pictures of the working folder.\"\"\"
    with open(f"{folder}/README.md") as card:
        code = card.read().split("```python\\n")[1].split("```")[0]
    with redirect_stdout(io.StringIO()) as out:
        exec(code.replace("path/of/this/folder", folder), given)
    return out.getvalue().splitlines()
with torch.no_grad():
"""
_END = """
torch.save(outputs, sys.argv[2])
"""


def elsewhere(tmp_path: Path, code: str, inputs: dict[str, Any]) -> Any:
    """What `code` leaves in `outputs`, plain values and tensors; it knows `inputs` and the functions above."""
    torch.save(inputs, tmp_path / "inputs.pt")
    script = tmp_path / "script.py"
    script.write_text(_BEGIN + "".join(f"    {line}\n" for line in code.strip().splitlines()) + _END)
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(script), str(tmp_path / "inputs.pt"), str(tmp_path / "outputs.pt")]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert "newly initialized" not in done.stderr, done.stderr
    return torch.load(tmp_path / "outputs.pt", weights_only=True)


def vocabulary(path: Path, size: int = 211) -> Path:
    """A vocabulary of the tiny released models: [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, as bert-base-uncased's."""
    pieces = ["[PAD]", *(f"w{number}" for number in range(1, size))]
    pieces[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces[200:205] = ["a", "video", "of", "##a", "cat"]
    path.write_text("".join(f"{piece}\n" for piece in pieces))
    return path
