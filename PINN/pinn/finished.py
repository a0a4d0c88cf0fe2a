"""Finished runs: read back from their folders, and trained once more to look at single steps.

    settings, run = open_run(Path("results/convection/lbfgs/beta_5/n_1000/seed_0"))
    group = begin_again(settings, run)
    with Signals() as signals:
        lowest = approach(group, 1e-4, signals)          # the weights when the training loss is at most 1e-4
        lengths, losses = record(group, 200, signals)    # |W_{k+1} - W_k| and the loss at W_k of 200 steps from there

`approach` makes the optimizer calls of the original training: on the same machine, with as many threads, it passes
through the same weights bit for bit. A run that was trained side by side with others had other last bits, which L-BFGS
amplifies: its replay agrees until then. Nothing is written.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pinn.files import UsageError
from pinn.pdes import SYSTEMS
from pinn.record import Run
from pinn.saved import reopen
from pinn.session import Progress, Signals, keep_freed_memory
from pinn.settings import Settings
from pinn.strategies import STRATEGIES
from pinn.strategies.base import set_option
from pinn.train import Group

#: Strategies that minimise one loss in one stage, and what a step of theirs is called.
UNITS = {"adam": "Adam step", "lbfgs": "L-BFGS iteration"}


def open_run(folder: Path) -> tuple[Settings, Run]:
    """Settings and run folder of a finished run, from its config.json; on the CPU.

    Raises:
        UsageError: when there is no finished PINN run, or it is not what config.json says.
    """
    def make(config: dict[str, Any], _: dict[str, Any], path: Path) -> tuple[Settings, Run]:
        settings, physical, seed = rebuild(config, path)
        return settings, settings.run(physical, seed)

    return reopen(folder, "PINN", make)


def rebuild(config: dict[str, Any], path: Path) -> tuple[Settings, float, int]:
    """Settings, physical value and seed from the config.json of a run folder."""
    system, strategy = SYSTEMS[config["pde"]], STRATEGIES[config["opt"]]
    others = dict(config["pde_params"])
    physical, options = float(others.pop(system.physical)), strategy.Options()
    for name, value in config["opt_params"].items():
        set_option(options, name, value, strategy.main, f"{path}/config.json: opt_params")
    settings = Settings(
        system=system, others=others, n=config["num_res"], strategy=strategy.name, options=options,
        save_path=Path(*path.parts[:-5]), dtype=getattr(torch, config["precision"]), hidden=tuple(config["hidden"]),
        grid=(config["num_x"], config["num_t"]), data_seed=config["set_idx"], loss=config["loss"], weight=config["L"],
        periodic_slope=config["periodic_slope"])
    return settings, physical, config["initial_seed"]


def check_strategy(settings: Settings, run: Run) -> None:
    """Look that the steps of a run can be recorded.

    Raises:
        UsageError: for any strategy but those in `UNITS`.
    """
    if settings.strategy not in UNITS:
        raise UsageError(f"RUN_FOLDER {run.path}: steps are recorded of runs of {' and '.join(UNITS)}, which minimise "
                         f"one loss in one stage, not of {settings.strategy}")


def begin_again(settings: Settings, run: Run) -> Group:
    """The run, of one of the strategies in `UNITS`, at its initial weights and about to make its first step."""
    keep_freed_memory()
    group = Group(replace(settings, log_every=sys.maxsize), [run], None)  # a line of the history would cost time
    group.progress = Progress(str(run.key.folder()))
    group.strategy.advance(0)
    group.optimizer = group.stages[0].build(group.params)
    group.strategy.enter(0)
    return group


def train_loss(group: Group) -> float:
    """The training loss as in metrics.json, at the present weights."""
    return group.objective.terms(group.params)["loss"].item()


def approach(group: Group, loss: float, signals: Signals) -> float:
    """Go on as in the original training until the training loss is at most `loss` at the end of an optimizer call.

    Returns:
        The lowest training loss seen: above `loss` when the run ended, or a signal came, before that.
    """
    lowest, stage = math.inf, group.stages[0]
    while True:
        lowest = min(lowest, train_loss(group))
        if lowest <= loss or signals.requested or not group.active(stage).any():
            return lowest
        group.step(stage)


def record(group: Group, steps: int, signals: Signals) -> tuple[list[float], list[float]]:
    """Make up to `steps` single steps, beyond the run's budget where it takes them; L-BFGS keeps its history.

    Returns:
        The lengths |W_{k+1} - W_k| over all weights, computed in float64 from the stored ones, and the training
        losses at W_k; fewer than `steps` when no further step is possible, or a signal came.
    """
    counter, lengths, losses = group.counters[0], [], []
    stage = replace(group.stages[0], iterations=counter.total + steps)
    group.lengths = [stage.iterations]
    group.optimizer.param_groups[0]["max_iter"] = 1
    while group.active(stage).any() and not signals.requested:
        before, loss = [p.detach().to(torch.float64, copy=True) for p in group.params], train_loss(group)
        group.step(stage)
        squares = [(p.detach().double() - old).square().sum() for p, old in zip(group.params, before, strict=True)]
        length = torch.stack(squares).sum().sqrt().item()
        if length or not counter.stopped:  # the attempt that found no further step is none
            lengths.append(length)
            losses.append(loss)
    return lengths, losses
