"""The training loss as a function of weights that are given as parameters, and the images that its Hessian is taken on.

    L(theta) = (1/B) sum_i cross_entropy(network(x_i), y_i),    x_i without augmentation, no weight decay

Weights are those of an ordinary network, each with a leading axis of length 1, as `hessian.py` wants them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from .data import Images
from .model import ResNet18

PROBE = 128
GRAPH = {"cpu": 2048, "cuda": 8192}  # images times width whose graph is held at a time: 2.4 and 9.6 GB in float64


def probe(train: Images, count: int = PROBE) -> Images:
    """The first `count` images (or all) of a whole training set in balanced order: the same whatever n."""
    return train.select(slice(count))


def logits(model: ResNet18, params: Sequence[Tensor], buffers: Mapping[str, Tensor], pixels: Tensor,
           training: bool = False) -> Tensor:
    """Logits (B, classes) of normalised images with these weights, (1, ...) each; the model's own are not looked at.

    `buffers` are the running statistics: used, or with `training` moved, in place, towards those of the images.
    """
    model.train(training)
    weights = {name: p[0] for (name, _), p in zip(model.named_parameters(), params, strict=True)}
    return functional_call(model, {**weights, **buffers}, (pixels,))


def training_loss(model: ResNet18, params: Sequence[Tensor], buffers: Mapping[str, Tensor], pixels: Tensor,
                  labels: Tensor) -> Tensor | Parts:
    """Mean loss of normalised images with its graph, (1,), by running statistics. For `hessian.lambda_max`.

    It comes in parts where the images are more than a block.

    Args:
        params: leaves that require gradients, (1, ...) each, in the order of the model's.
    """
    block = max(1, GRAPH[pixels.device.type] // model.conv1.out_channels)
    parts = Parts(model, params, buffers, pixels, labels, block)
    return next(iter(parts)) if len(labels) <= block else parts


class Parts:
    """The mean loss as a sum over blocks of images, (1,) each, evaluated anew whenever it is walked."""

    def __init__(self, model: ResNet18, params: Sequence[Tensor], buffers: Mapping[str, Tensor], pixels: Tensor,
                 labels: Tensor, block: int) -> None:
        self.model, self.params, self.buffers = model, params, buffers
        self.pixels, self.labels, self.block = pixels, labels, block

    def __iter__(self) -> Iterator[Tensor]:
        for pixels, labels in zip(self.pixels.split(self.block), self.labels.split(self.block), strict=True):
            found = logits(self.model, self.params, self.buffers, pixels)
            yield cross_entropy(found, labels, reduction="sum")[None] / len(self.labels)
