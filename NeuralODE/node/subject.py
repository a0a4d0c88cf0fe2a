"""A finished neural ODE as the landscape tools (diagnosis.py) see it: weights, loss, rollout error, hidden layers.

The loss is L = L_data + lambda L_phys in the paper's units (`loss_total` of metrics.json, whose `train_loss` is L_data
alone), whatever the strategy minimised, over all pairs of the run; the error is that of the test rollout. Several
networks are evaluated side by side on the runs axis. Filters: W (in, out) has one neuron a column, axis 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from node.arguments import strategy_kind, strategy_name
from node.files import UsageError
from node.hessian import Gradient, gradients_of
from node.model import MLP, propagate
from node.objective import Objective, Problem
from node.record import Run
from node.rollout import relative_l2_by_component
from node.saved import read_weights, reopen
from node.settings import Settings
from node.strategies import STRATEGIES
from node.strategies.base import set_option
from node.strategies.batches import Region
from node.strategies.curriculum import Schedule

CHUNK = 64  # vectors of a Hessian product at a time: these networks are so small that calls cost more than numbers
#: Names in config.json of what is called otherwise in `Problem`.
RENAMED = {"mode": "physics_mode", "weight": "lamb", "scale": "loss_scale", "tolerance": "data_tolerance"}
#: Modes that differ in what is minimised, not in the loss that is reported.
ALIKE = {"pinn_region": "pinn", "pinn_alm": "pinn"}


def add_flags(parser: argparse.ArgumentParser, tool: str) -> None:
    """None beyond those of all modules: the data follow from config.json."""


def open_subject(folder: Path, args: argparse.Namespace, dtype: torch.dtype | None = None) -> NodeSubject:
    """The finished run in a folder, on `args.device`, in `dtype` (None: that of the training).

    Raises:
        UsageError: when there is no finished NeuralODE run, or it is not what config.json says.
    """
    return NodeSubject(folder, args.device, dtype)


def open_run(folder: Path) -> tuple[Settings, Run]:
    """Settings and run folder of a finished run, from its config.json; on the CPU.

    Raises:
        UsageError: when there is no finished NeuralODE run, or it is not what config.json says.
    """
    def make(config: dict[str, Any], result: dict[str, Any], path: Path) -> tuple[Settings, Run]:
        n = result["data"]["value"]
        settings = rebuild(config, n, path)
        return settings, settings.run(config["inv_b"], n, config["seed"])

    return reopen(folder, "NeuralODE", make)


def rebuild(config: dict[str, Any], n: int, path: Path) -> Settings:
    """Settings of a single run with n samples from the config.json of its folder."""
    stored = {field.name: config[RENAMED.get(field.name, field.name)] for field in fields(Problem)}
    problem = Problem(**stored | {"probe_span": tuple(stored["probe_span"])})
    named = {name: config[name] for name in ("optimizer", "constraint_method", "cl_warmup")}
    flags = argparse.Namespace(**named, physics_mode=problem.mode, alm_target=config["options"].get("target"))
    kind = strategy_kind(flags)
    options = STRATEGIES[kind].Options()
    for name, nested in (("region", Region), ("schedule", Schedule)):
        if hasattr(options, name) and name not in config["options"]:  # stored entry by entry, else as None
            setattr(options, name, nested())
    for name, value in config["options"].items():
        set_option(options, name, value, STRATEGIES[kind].main, f"{path}/config.json: options")
    return Settings(
        problem=problem, model="NODE" if problem.mode in ("none", "sphere") else "PINODE",
        strategy=strategy_name(flags, kind), kind=kind, options=options, horizons={n: config["horizon"]},
        save_path=Path(*path.parts[:-6]), named=named, dtype=getattr(torch, config["precision"]),
        hidden=tuple(config["hidden"]), updates=config["updates_per_epoch"],
        init=None if config["init"] is None else Path(config["init"]), budget=config["budget"],
        log_every=config["log_every"])


class NodeSubject:
    """One run. Attributes and methods are those of `diagnosis.Subject`."""

    states = ("initial", "final")
    loss_name, error_name = "training loss L (data and physics)", "relative L2 error of the test rollout"
    floor, restrictions, chunk = None, {}, CHUNK

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype | None) -> None:
        settings, self.run = open_run(folder)
        self.trained_in = settings.dtype
        problem = replace(settings.problem, scale="paper")
        self.settings = replace(settings, device=device, dtype=dtype or settings.dtype, problem=problem)
        key, config = self.run.key, self.run.config
        self.horizon = config["horizon"]
        self.title = (f"{key.model}, {key.system}, 1/b = {key.physical_value:g}, T = {self.horizon:g}, "
                      f"n = {key.data_value}, {key.strategy}, seed {key.seed}")
        same = ("inv_b", "horizon", "lamb", "state", "integrator", "training", "data_tolerance", "dt", "test_dt",
                "test_horizon", "hidden", "precision")
        self.task: dict[str, Any] = {"physics_mode": ALIKE.get(problem.mode, problem.mode),
                                     **{name: config[name] for name in same}}
        depth = len(settings.hidden) + 1
        self.names = [f"weight {k}" for k in range(depth)] + [f"bias {k}" for k in range(depth)]
        self.filters: list[int | None] = [1] * depth + [None] * depth
        self._objective = cache(self._make_objective)
        objective = self._objective(1)
        pairs = int(objective.data.count[0])
        self.data = f"all {pairs} pairs of the training trajectory"
        # the steps of dopri5 follow the worst of the networks that are integrated together
        self.batch = 1 if problem.integrator == "dopri5" else max(1, objective.points_a_block // pairs)

    def weights(self, state: str) -> list[Tensor]:
        """Weights that the training began with, or final ones from model.pt: (1, ...) each.

        Raises:
            UsageError: when there are none, or of another network.
        """
        settings, path = self.settings, self.run.path / "model.pt"
        params = list(MLP([self.run.key.seed], settings.problem.size, settings.hidden, self.trained_in).parameters())
        if state == "final":
            found = read_weights(path).get("params", [])
            if [p.shape for p in found] != [p.shape[1:] for p in params]:
                raise UsageError(f"{path} holds the weights of another network than config.json describes")
        elif settings.init is not None:
            try:
                found = settings.initial_weights(self.run.key)
            except UsageError as error:
                raise UsageError(f"RUN_FOLDER {self.run.path}: the weights that it began with are gone ({error}); "
                                 f"the final ones are there (--at final)") from None
        else:
            found = [p[0] for p in params]
        # as in training, they are rounded to its precision first
        return [p.detach()[None].to(self.trained_in).to(settings.device, settings.dtype) for p in found]

    def gradients(self, params: Sequence[Tensor]) -> Callable[[], Iterable[Gradient]]:
        """The gradient of the training loss at leaves that require it, with its graph, computed once."""
        return gradients_of(self._objective(1).training_losses(params, torch.arange(1)), params)

    def losses(self, params: Sequence[Tensor]) -> Tensor:
        """Training losses L of k networks, (k,) float64 on the CPU: `loss_total` of metrics.json."""
        return torch.cat([objective.terms(part)["total"] for objective, part in self._blocks(params)])

    @torch.no_grad()
    def errors(self, params: Sequence[Tensor]) -> Tensor:
        """Errors of the test rollout of k networks, (k,) float64 on the CPU: `test_error` of metrics.json."""
        span = self.settings.problem.test_dt, self.settings.problem.test_horizon
        return torch.cat([relative_l2_by_component(objective.predict(part, *span), objective.truth(*span)).cpu()
                          for objective, part in self._blocks(params)])

    def loss_and_gradients(self, params: Sequence[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        """Training losses (k,) and their gradients (k, ...); the same for every step."""
        found = []
        for objective, part in self._blocks(params):
            moving = [p.detach().requires_grad_() for p in part]
            objective.backward(moving, torch.arange(len(moving[0])))  # its losses may lack a constant
            found.append([p.grad for p in moving])
        return self.losses(params).to(params[0]), [torch.cat(grads) for grads in zip(*found, strict=True)]

    @torch.no_grad()
    def features(self, params: Sequence[Tensor], samples: int) -> dict[str, Tensor]:
        """tanh layers and output f of one network at up to `samples` evenly spaced states of the true test trajectory,
        (N, d) each.
        """
        truth = self._objective(1).truth(self.settings.problem.test_dt, self.settings.problem.test_horizon)[0]
        at = truth[np.unique(np.linspace(0, len(truth) - 1, samples).round().astype(int))][None]
        depth, h, found = len(params) // 2, at, {}
        for layer in range(depth - 1):
            h = torch.tanh(torch.baddbmm(params[depth + layer], h, params[layer]))
            found[f"hidden {layer + 1}"] = h[0]
        return found | {"output": propagate(params, at)[0]}

    def along_path(self) -> NodeSubject:
        """Itself: nothing but the weights changes along a path."""
        return self

    def _blocks(self, params: Sequence[Tensor]) -> Iterator[tuple[Objective, tuple[Tensor, ...]]]:
        """Networks that are evaluated together, with their objective."""
        for part in zip(*(p.split(self.batch) for p in params), strict=True):
            yield self._objective(len(part[0])), part

    def _make_objective(self, networks: int) -> Objective:
        """The losses of so many copies of the run."""
        s = self.settings
        return Objective(s.problem, [self.run.key.physical_value] * networks, [self.horizon] * networks, s.dtype,
                         s.device)
