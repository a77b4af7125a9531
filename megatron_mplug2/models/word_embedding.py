"""The table of word embeddings, which tensor parallelism splits: Megatron-Core's, with a gradient of the rows that were read.

A step reads some hundred of 30,720 rows. The gradient of torch's lookup is as large as the table: zeros, which are written and then added.
As a sparse tensor it is those rows, and Megatron-Core's data parallelism adds it to its buffer like any other.
"""

from megatron.core.tensor_parallel import VocabParallelEmbedding
from torch import Tensor
from torch.nn import functional as F


class WordEmbedding(VocabParallelEmbedding):
    """[b, L] int64 -> [b, L, h], the same on all tensor-parallel ranks."""

    def forward(self, input_: Tensor) -> Tensor:
        if not self._gives_rows:
            whole: Tensor = super().forward(input_)
            return whole
        return F.embedding(input_, self.weight, sparse=True)

    @property
    def _gives_rows(self) -> bool:
        """Only to Megatron-Core's `main_grad`: other engines want dense gradients. A GPU would have to
        sort the rows, and has the bandwidth for the table."""
        return self.tp_group.size() == 1 and hasattr(self.weight, "main_grad") and self.weight.device.type == "cpu"
