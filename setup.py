"""Package metadata. Exact versions, transitive ones too, are pinned in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

REQUIRES = [
    "torch>=2.13",
    "megatron-core>=0.16.1,<0.17",
    "psutil>=5.9",  # Megatron-Core's checkpoint writer needs it and does not declare it
    "numpy>=2.0",
    "pydantic>=2.12",
    "pyyaml>=6.0.1",
    "tokenizers>=0.21",
    "sentencepiece>=0.2.1",
    "safetensors>=0.5",
    "av>=14.0",
    "pillow>=11.0",
    "webdataset>=1.0",
    "tensorboard>=2.18",
    "typer>=0.15",
    "rich>=13.9",
    "pycocoevalcap>=1.2",
    "submitit>=1.5.4",
    "matplotlib>=3.10",
]
DALI = ["nvidia-dali-cuda130>=2.4"]
"""For decoding on a GPU; it runs without one too."""
REMOTE = ["fsspec>=2025.2", "aiohttp>=3.11", "s3fs>=2025.2"]
"""For shards behind http(s) and s3."""
DEEPSPEED = ["deepspeed>=0.19.8,<0.20"]
"""For `training.engine: deepspeed`. It is used beyond its public interface: a newer one must pass its tests first."""
HUGGING_FACE = ["transformers>=5.0"]
"""To load what is exported; an export itself needs only safetensors."""
EXTRAS = {
    "dali": DALI,
    "deepspeed": DEEPSPEED,
    "remote": REMOTE,
    "dev": [
        *DALI,
        *DEEPSPEED,
        *REMOTE,
        *HUGGING_FACE,
        "pytest>=8.0",
        "pytest-timeout>=2.3",
        "ruff>=0.9",
        "mypy>=1.14",
        "pre-commit>=4.0",
    ],
    "hf": HUGGING_FACE,
}

STYLED = (
    "data_tools.report",
    "launchers.sweep",
    "megatron_mplug2.evaluation",
    "megatron_mplug2.pages",
    "megatron_mplug2.observability.report",
)
"""Rooms with a stylesheet beside their code."""

setup(
    name="megatron-mplug2",
    version="0.1.0",
    description="mPLUG-2 pretraining on text, images and video with tensor, pipeline and data parallelism on Megatron-Core",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["megatron_mplug2*", "launchers*", "data_tools*"]),
    package_data={room: ["style.css"] for room in STYLED},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mplug2=megatron_mplug2.cli:main"]},
)
