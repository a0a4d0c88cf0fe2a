"""A finished PINN as the landscape tools (diagnosis.py) see it: weights, training loss, test error, hidden layers.

The loss is the soft-constrained one of metrics.json, whatever the strategy minimised, on all collocation points and
conditions; several networks are evaluated side by side on the runs axis.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinn.files import UsageError
from pinn.finished import open_run
from pinn.hessian import Gradient, gradients_of
from pinn.model import MLP, propagate
from pinn.objective import Objective
from pinn.saved import read_weights
from pinn.strategies.base import Row

GPU_CHUNK = 16  # vectors of a Hessian product at a time on a GPU; on a CPU batches were not faster


def add_flags(parser: argparse.ArgumentParser, tool: str) -> None:
    """None beyond those of all modules: the data follow from config.json."""


def open_subject(folder: Path, args: argparse.Namespace, dtype: torch.dtype | None = None) -> PINNSubject:
    """The finished run in a folder, on `args.device`, in `dtype` (None: that of the training).

    Raises:
        UsageError: when there is no finished PINN run, or it is not what config.json says.
    """
    return PINNSubject(folder, args.device, dtype)


class PINNSubject:
    """One run. Attributes and methods are those of `diagnosis.Subject`."""

    states = ("initial", "final")
    loss_name, error_name = "training loss", "relative L2 test error"
    floor, restrictions = None, {}

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype | None) -> None:
        settings, self.run = open_run(folder)
        # weight 1: train_loss of metrics.json has none
        self.settings = replace(settings, device=device, dtype=dtype or settings.dtype, weight=1.0)
        key, system = self.run.key, settings.system
        others = "".join(f", {name} = {value:g}" for name, value in settings.others.items())
        self.title = (f"PINN, {system.name}, {system.physical} = {key.physical_value:g}{others}, n = {settings.n}, "
                      f"{settings.strategy}, seed {key.seed}")
        same = ("pde", "pde_params", "num_res", "num_x", "num_t", "hidden", "set_idx", "loss", "periodic_slope",
                "precision")
        self.task: dict[str, Any] = {name: self.run.config[name] for name in same}
        depth = len(settings.hidden) + 1
        self.names = [f"weight {k}" for k in range(depth)] + [f"bias {k}" for k in range(depth)]
        self.filters: list[int | None] = [1] * depth + [None] * depth  # W (in, out): a neuron is a column
        self.data = f"all {settings.n} collocation points and the conditions"
        self.chunk = GPU_CHUNK if device.type == "cuda" else 1
        self._objectives: dict[int, Objective] = {}
        self.batch = self._objective(1).runs_a_block

    def weights(self, state: str) -> list[Tensor]:
        """Initial weights from the seed, final ones from model.pt: (1, ...) each.

        Raises:
            UsageError: when there are none, or of another network.
        """
        like = dict(dtype=self.settings.dtype, device=self.settings.device)
        # initial weights round as they did in training
        initial = MLP([self.run.key.seed], self.settings.hidden, getattr(torch, self.run.config["precision"]))
        params = [p.detach() for p in initial.parameters()]
        if state == "final":
            path = self.run.path / "model.pt"
            found = read_weights(path).get("params", [])
            if [p.shape for p in found] != [p.shape[1:] for p in params]:
                raise UsageError(f"{path} holds the weights of another network than config.json describes")
            params = [p[None] for p in found]
        return [p.to(**like) for p in params]

    def gradients(self, params: Sequence[Tensor]) -> Callable[[], Iterable[Gradient]]:
        """The gradient of the training loss at leaves that require it, with its graph, computed once."""
        return gradients_of(self._objective(1).losses(params, torch.arange(1)), params)

    def losses(self, params: Sequence[Tensor]) -> Tensor:
        """Training losses of k networks, (k,) float64 on the CPU, as in metrics.json."""
        return self._objective(len(params[0])).terms(params)["loss"].double().cpu()

    def errors(self, params: Sequence[Tensor]) -> Tensor:
        """Relative L2 test errors of k networks, (k,) float64 on the CPU."""
        rows = [[p[k:k + 1] for p in params] for k in range(len(params[0]))]
        return torch.from_numpy(np.concatenate([self._objective(1).errors(row)[1] for row in rows]))

    def loss_and_gradients(self, params: Sequence[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        """Training losses (k,) and their gradients (k, ...); the same for every step."""
        moving = [p.detach().requires_grad_() for p in params]
        losses = self._objective(len(moving[0])).backward(moving, torch.arange(len(moving[0])))
        return losses, [p.grad for p in moving]

    def features(self, params: Sequence[Tensor], samples: int) -> dict[str, Tensor]:
        """tanh layers and output of one network at up to `samples` evenly spaced points of the test grid: (N, d)."""
        grid = self._objective(1).grid.coarse().all_points()
        at = torch.tensor(grid[np.unique(np.linspace(0, len(grid) - 1, samples).round().astype(int))],
                          dtype=self.settings.dtype, device=self.settings.device)[None]
        depth, h, found = len(params) // 2, at, {}
        for layer in range(depth - 1):
            h = torch.tanh(torch.baddbmm(params[depth + layer], h, params[layer]))
            found[f"hidden {layer + 1}"] = h[0]
        return found | {"output": propagate(list(params), at)[0][0][:, None]}

    def along_path(self) -> PINNSubject:
        """Itself: nothing but the weights changes along a path."""
        return self

    def _objective(self, networks: int) -> Objective:
        """The loss of as many copies of the run."""
        if networks not in self._objectives:
            self._objectives[networks] = self.settings.objective([Row(self.run.key)] * networks)
        return self._objectives[networks]
