"""Linear layers that tensor parallelism splits: Megatron-Core's, which are torch's where one rank has all of the weight.

There Megatron-Core's autograd function would only add to a matrix product what torch's does within it: the bias, in the product's own
kernel, and the gradient, without a Python call a layer. What is computed is the same.
"""

from megatron.core import tensor_parallel
from megatron.core.transformer.mlp import MLPSubmodules
from torch import Tensor
from torch.nn import functional as F

Output = tuple[Tensor, Tensor | None]
"""What a layer gives, and the bias that its caller has yet to add."""


class ColumnParallelLinear(tensor_parallel.ColumnParallelLinear):
    """Weight and bias split by their rows: each rank has its channels of the output."""

    def forward(self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None) -> Output:
        """[s, b, in] -> [s, b, out / tensor size], and the bias if it is not added."""
        if weight is None and self.tp_group.size() == 1:
            return F.linear(input_, self.weight, self.bias), None
        output: Output = super().forward(input_, weight, runtime_gather_output)
        return output


class RowParallelLinear(tensor_parallel.RowParallelLinear):
    """Weight split by its columns: each rank has its channels of the input."""

    def forward(self, input_: Tensor) -> Output:
        """[s, b, in / tensor size] -> [s, b, out], and the bias if it is not added."""
        if self.tp_group.size() == 1:
            return F.linear(input_, self.weight, self.bias), None
        output: Output = super().forward(input_)
        return output


FEED_FORWARD = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
"""Of a `megatron.core.transformer.mlp.MLP`."""


def with_bias(output: Output) -> Tensor:
    """The layer's output with the bias that it left."""
    x, bias = output
    return x if bias is None else x + bias
