"""The training loss as a function of weights that are given as parameters, and evenly spaced samples to take it on.

    loss = (1/B) sum_i ||u_pred - u||^2 (sum, as published),  over N^2 (mean),  or  (1/B) sum_i ||u_pred - u|| / ||u||

Weights are those of an ordinary network, each with a leading axis of length 1, as `hessian.py` wants them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from .data import DataFile, Samples, load
from .model import FNO2d
from .settings import Settings

PROBE = 128


def sample_losses(prediction: Tensor, u: Tensor, style: str) -> tuple[Tensor, Tensor]:
    """What is minimised, and the relative L2 error (without a graph), (B,) each, of fields (B, N, N)."""
    squares = (prediction - u).square().sum((1, 2))
    relative = squares / u.square().sum((1, 2))
    errors = relative.detach().sqrt()
    if style == "relative":
        return relative.sqrt(), errors
    return squares / (u[0].numel() if style == "mean" else 1), errors


def training_loss(settings: Settings, model: FNO2d, params: Sequence[Tensor], samples: Samples) -> Tensor | Parts:
    """Mean loss of samples with its graph, (1,); in parts where they are more than a block. For `hessian.lambda_max`.

    Args:
        params: leaves that require gradients, (1, ...) each, in the order of the model's.
    """
    block = settings.block  # the graph has about 50 fields of a layer a sample: in float64 0.4 GB, on a GPU 13 GB
    if settings.device.type == "cuda":
        block = max(1, block // 4)
    parts = Parts(model, params, samples, settings.config.loss_style, block)
    return next(iter(parts)) if len(samples) <= block else parts


class Parts:
    """The mean loss as a sum over blocks of samples, (1,) each, evaluated anew whenever it is walked."""

    def __init__(self, model: FNO2d, params: Sequence[Tensor], samples: Samples, style: str, block: int) -> None:
        self.model, self.params, self.samples, self.style, self.block = model, params, samples, style, block

    def __iter__(self) -> Iterator[Tensor]:
        for rows in torch.arange(len(self.samples), device=self.samples.f.device).split(self.block):
            f, coefficients, u = self.samples.batch(rows)
            losses, _ = sample_losses(predict(self.model, self.params, f, coefficients), u, self.style)
            yield losses.sum()[None] / len(self.samples)


def predict(model: FNO2d, params: Sequence[Tensor], f: Tensor, coefficients: Tensor) -> Tensor:
    """u (B, N, N) of the network with these weights, (1, ...) each; the model's own are not looked at."""
    weights = {name: p[0] for (name, _), p in zip(model.named_parameters(), params, strict=True)}
    return functional_call(model, weights, (f, coefficients))


def probe(settings: Settings, count: int = PROBE) -> tuple[Samples, int]:
    """`count` rows of the training file (or all), evenly spaced, and how many of them are not among the run's."""
    samples, rows = spread(settings, settings.files.train, min(count, settings.files.train.rows))
    subsample = settings.config.subsample
    return samples, int(((rows % subsample > 0) | (rows >= settings.n * subsample)).sum())


def spread(settings: Settings, file: DataFile, count: int, subsample: int = 1) -> tuple[Samples, Tensor]:
    """`count` evenly spaced ones of every `subsample`-th row of a file, and the numbers of these rows."""
    stride = subsample * max(1, file.rows // subsample // count)
    samples = load(file, settings.files.scales, stride, settings.device, settings.dtype)
    chosen = torch.arange(count) * len(samples) // count
    return Samples(*samples.batch(chosen.to(settings.device))), chosen * stride
