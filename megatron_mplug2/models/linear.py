"""Linear layers: those that tensor parallelism splits are Megatron-Core's, or `kernels.linear` where one rank has all of the weight.

There Megatron-Core's autograd function would only add to a product what its kernel does within it, the bias. What is computed is the same.
"""

from megatron.core import tensor_parallel
from megatron.core.transformer.mlp import MLPSubmodules
from torch import Tensor, nn

from megatron_mplug2.models.kernels import linear

Output = tuple[Tensor, Tensor | None]
"""What a layer gives, and the bias that its caller has yet to add."""


class ColumnParallelLinear(tensor_parallel.ColumnParallelLinear):
    """Weight and bias split by their rows: each rank has its channels of the output."""

    def forward(self, input_: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None) -> Output:
        """[s, b, in] -> [s, b, out / tensor size], and the bias if it is not added."""
        if weight is None and self.tp_group.size() == 1:
            return linear(input_, self.weight, self.bias), None
        output: Output = super().forward(input_, weight, runtime_gather_output)
        return output


class RowParallelLinear(tensor_parallel.RowParallelLinear):
    """Weight split by its columns: each rank has its channels of the input."""

    def forward(self, input_: Tensor) -> Output:
        """[s, b, in / tensor size] -> [s, b, out], and the bias if it is not added."""
        if self.tp_group.size() == 1:
            return linear(input_, self.weight, self.bias), None
        output: Output = super().forward(input_)
        return output


class Linear(nn.Linear):
    """A replicated one."""

    def forward(self, input_: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return linear(input_, self.weight, self.bias)


FEED_FORWARD = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
"""Of a `megatron.core.transformer.mlp.MLP`."""


def with_bias(output: Output) -> Tensor:
    """The layer's output with the bias that it left."""
    x, bias = output
    return x if bias is None else x + bias
