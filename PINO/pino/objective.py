"""What is minimised and measured: L = (1/n) sum_i (xy_loss d_i + f_loss p_i), by default 5 d + p.

Samples go through the network a block at a time and gradients add up, so memory does not grow with n. First-order
methods evaluate a batch, the others all samples. The augmented Lagrangian puts its own density in the place of
5 d_i + p_i.

Weights are those of an ordinary network, each with a leading axis of length 1: the optimizers know stacked runs only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pino.data import Samples

#: (d (b,), p (b,), rows (b,)) -> what is minimised, (b,)
Density = Callable[[Tensor, Tensor, Tensor], Tensor]


class Objective:
    """The loss of one network on its training samples, and its errors on the test samples.

    Args:
        model: whose forward is evaluated; its own weights are not used.
        weights: xy_loss and f_loss.
        block: samples that go through the network at a time; graph_block: the same where second derivatives follow.
        floors: lower bounds of 5 d_i + p_i, (n,), or None where they are not known.
        noted: more numbers for metrics.json.
    """

    group_size = graph_size = None

    def __init__(self, model: nn.Module, train: Samples, test: Samples, weights: tuple[float, float], block: int,
                 graph_block: int, floors: np.ndarray | None = None,
                 noted: Mapping[str, float] | None = None) -> None:
        self.names = [name for name, _ in model.named_parameters()]
        self.model, self.weights = model, weights
        self.block, self.graph_block = block, graph_block
        self.more_results: Callable[[], dict[str, float]] = dict
        self.set_samples(train, test, floors, noted or {})

    def set_samples(self, train: Samples, test: Samples, floors: np.ndarray | None, noted: Mapping[str, float]) -> None:
        """Other samples, as stages of a curriculum have them."""
        self.train, self.test, self.floors, self.noted = train, test, floors, noted
        self.all = torch.arange(len(train), device=train.u.device)
        self.batch: Tensor | None = None  # rows (b,) of the samples to be evaluated, None: all
        self.density: Density = self.penalty
        self.last_terms: tuple[Tensor, Tensor] | None = None  # mean d and p of the last evaluation with gradients

    def network(self, params: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """a (b, S, S) -> u (b, S, S) with these weights (1, ...)."""
        weights = {name: p.squeeze(0) for name, p in zip(self.names, params, strict=True)}
        return lambda a: functional_call(self.model, weights, (a,))

    def penalty(self, d: Tensor, p: Tensor, rows: Tensor) -> Tensor:
        """5 d + p."""
        return self.weights[0] * d + self.weights[1] * p

    # What optimizers ask for ------------------------------------------------------------------------------------

    def backward(self, params: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Loss (1,) of the batch; its gradient is written to `.grad`."""
        chosen = self.all if self.batch is None else self.batch
        network = self.network(params)
        for w in params:
            if w.grad is None:
                w.grad = torch.zeros_like(w)
            else:
                w.grad.zero_()
        sums = torch.zeros(3, dtype=torch.float64, device=chosen.device)
        for block in chosen.split(self.block):
            d, p = self.train.terms(network, block)
            loss = self.density(d, p, block).sum()
            (loss / len(chosen)).backward()
            sums += torch.stack([loss.detach(), d.detach().sum(), p.detach().sum()])
        loss, *terms = sums / len(chosen)
        self.last_terms = tuple(terms)
        return loss[None].to(params[0].dtype)

    def losses(self, params: Sequence[Tensor], rows: Tensor) -> Tensor | Parts:
        """Loss (1,) of all samples with its graph; in parts where they do not fit into one block."""
        return self._graph(Parts(self, params, self.density))

    def training_losses(self, params: Sequence[Tensor], rows: Tensor) -> Tensor | Parts:
        """The same for 5 d + p, whatever is minimised."""
        return self._graph(Parts(self, params, self.penalty))

    def _graph(self, parts: Parts) -> Tensor | Parts:
        return parts.whole() if len(self.train) <= self.graph_block else parts

    # Records ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def all_terms(self, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """d and p of all training samples, (n,) each, float64."""
        network = self.network(params)
        found = [torch.stack(self.train.terms(network, block)) for block in self.all.split(self.block)]
        d, p = torch.cat(found, 1).double()
        return d, p

    @torch.no_grad()
    def test_errors(self, params: Sequence[Tensor]) -> Tensor:
        """d of all test samples, (m,), float64."""
        network, rows = self.network(params), torch.arange(len(self.test), device=self.all.device)
        return torch.cat([self.test.errors(network, block) for block in rows.split(self.block)]).double()

    def columns(self, params: Sequence[Tensor], rows: Tensor) -> dict[str, list[float]]:
        """train_loss = 5 d + p, its terms, and the test error, over all samples."""
        d, p = self.all_terms(params)
        found = {"train_loss": self.penalty(d, p, self.all), "data_loss": d, "pde_loss": p,
                 "test_error": self.test_errors(params)}
        return {name: [value.mean().item()] for name, value in found.items()}

    def gradient_norms(self, params: Sequence[Tensor], rows: Tensor) -> list[float]:
        """|gradient| of what is minimised, over all samples."""
        batch, terms, self.batch = self.batch, self.last_terms, None
        self.backward(params, rows)
        self.batch, self.last_terms = batch, terms
        return [math.sqrt(sum(w.grad.double().square().sum().item() for w in params))]

    def results(self, params: Sequence[Tensor]) -> dict[str, list[float]]:
        """Floor, what is least above it, absolute test error, and what is noted of the samples."""
        absolute = self.test_errors(params) * self.test.norms.double() / (self.test.u.shape[1] - 1)
        found: dict[str, Any] = {"test_error_abs": absolute.mean().item(), **self.noted, **self.more_results()}
        if self.floors is not None:
            above = self.penalty(*self.all_terms(params), self.all).cpu().numpy() - self.floors
            found |= {"floor": float(self.floors.mean()), "least_above_floor": float(above.min())}
        return {name: [value] for name, value in found.items()}

    def write_files(self, folder: Path, row: int) -> None:
        """Nothing more."""


class Parts:
    """The loss as a sum over blocks of samples, evaluated anew whenever it is walked."""

    def __init__(self, objective: Objective, params: Sequence[Tensor], density: Density) -> None:
        self.objective, self.params, self.density = objective, params, density

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.objective.all.split(self.objective.graph_block):
            yield self._value(block)  # no name here: its graph would live on while the next is made

    def whole(self) -> Tensor:
        """The loss (1,) in one piece."""
        return self._value(self.objective.all)

    def _value(self, block: Tensor) -> Tensor:
        """What these samples contribute, (1,)."""
        o = self.objective
        d, p = o.train.terms(o.network(self.params), block)
        return (self.density(d, p, block).sum() / len(o.train))[None]
