"""What every node of a config's tree is."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A node of the tree: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
