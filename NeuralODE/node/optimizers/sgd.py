"""Gradient descent for R independent problems side by side: theta <- theta - lr g."""

from torch import Tensor

from .adam import FirstOrder


class SGD(FirstOrder):
    """Plain gradient descent over the runs axis, stochastic where the closure draws mini-batches; see `FirstOrder`."""

    def update(self, grad: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        """The gradient itself."""
        return grad.clone()
