"""The training loop of an FNO: epochs of shuffled batches, validation, the best weights kept, into run folders.

    loss = (1/B) sum_i ||u_pred - u||^2 (`--loss_style sum`, as published),    error = mean_i ||u_pred - u|| / ||u||

Adam or SGD with a cosine learning rate. Weights with the lowest validation loss are tested (`test_error`), those of the
last epoch give the training error (`train_loss`), both over all samples. Position (epoch, step) of a checkpoint counts
the steps within an epoch; signals are obeyed and checkpoints written between steps.
"""

from __future__ import annotations

import copy
import math
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .data import Samples
from .files import atomic_write, tensor_writer
from .hessian import lambda_max
from .objective import probe, sample_losses, training_loss
from .parallel import World
from .record import REQUEUE, Run, begin
from .session import Progress, Signals, Wandb, environment, keep_freed_memory
from .settings import Settings

BUSY = 3  # exit code: nothing failed, but another process holds some of the runs


def train(settings: Settings, runs: Sequence[Run], world: World) -> int:
    """Train these runs, which differ in the seed, one after another and record them.

    Returns:
        0 when all are done, 1 when some failed, 3 when another process has some, 75 when interrupted by a signal
        (all is saved; the same call goes on).

    Raises:
        UsageError: for a run folder that cannot be written or holds another configuration, and for broken data.
    """
    waiting = world.share(lambda: settings.force or not all(run.is_done() for run in runs))
    data = settings.load() if waiting else ()  # before any folder is made: broken data leave no trace
    code, chosen = world.share(lambda: claim(settings, runs))
    if world.first and settings.hessian_every and any(run.is_done() for run in runs):
        print("finished runs get no lambda_max along training; diagnose.py hessian computes it for their weights",
              file=sys.stderr)
    if not chosen:
        return code
    keep_freed_memory()
    with Signals() as signals:
        try:
            for number in chosen:
                try:
                    interrupted = Trainer(settings, runs[number], data, world).train(signals)
                except Exception as error:  # this run failed; the others go on, unless other processes wait for this
                    if world.first:
                        runs[number].fail(error)
                        print(f"failed: {runs[number].path}: {''.join(traceback.format_exception_only(error)).strip()} "
                              f"(traceback in failed.json there)", file=sys.stderr)
                    if world.size > 1:
                        raise
                    code = 1
                    continue
                if interrupted:
                    break
        finally:
            for number in chosen:
                runs[number].release()
        if world.any(bool(signals.requested)):  # even with the last step: more cells of the map may be waiting
            if world.first:
                print(f"stopped by {signals.requested or 'another process'} and saved; the same command"
                      f"{' without --force' * settings.force} goes on from here", file=sys.stderr)
            return REQUEUE
    return code


def claim(settings: Settings, runs: Sequence[Run]) -> tuple[int, list[int]]:
    """The exit code so far and the numbers of the runs that are to be trained here; says which are not and why."""
    ours, busy = begin(runs, settings.force, settings.label)
    chosen = [k for k, run in enumerate(runs) if run in ours]
    if chosen and settings.batch < settings.config.batch_size:
        print(f"n = {settings.n} is less than a batch of {settings.config.batch_size}: every update takes all samples",
              file=sys.stderr)
    return BUSY if busy else 0, chosen


class Trainer:
    """One run: network, optimizer, where it stands, and its folder."""

    def __init__(self, settings: Settings, run: Run, data: tuple[Samples, Samples, Samples], world: World) -> None:
        self.settings, self.config, self.run, self.world = settings, settings.config, run, world
        self.data, self.val, self.test = data
        self.model = settings.build(run.key.seed)
        self.params = list(self.model.parameters())
        for p in self.params:  # also where this process has no share of the first batch
            p.grad = torch.zeros_like(p)
        if self.config.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.params, self.config.lr)
        else:
            self.optimizer = torch.optim.SGD(self.params, self.config.lr, momentum=0.9)
        self.steps = math.ceil(len(self.data) / settings.batch)  # an epoch
        self.epoch, self.step_number = 0, 0
        self.best: dict[str, Any] = {"epoch": 0, "loss": math.inf, "error": math.nan, "model": {}}
        self.unvalidated = 0  # epochs since the last validation
        self.sums = torch.zeros(3, dtype=torch.float64, device=settings.device)  # of the epoch: loss, error, |g|
        self.last: dict[str, float] = {}  # what the last epoch gave
        self.probe: Samples | None = None  # on which curvature is taken
        self.seconds, self.stop_reason = 0.0, "budget"
        self.progress = Progress(settings.label + f" seed_{run.key.seed}", None if world.first else 0)
        self.wandb = Wandb(settings.wandb if world.first else "disabled", settings.wandb_project, settings.wandb_group)
        self.clock = self.saved = time.monotonic()

    # The loop ---------------------------------------------------------------------------------------------------

    def train(self, signals: Signals) -> bool:
        """Train until the run is recorded; True when a signal ended it early (everything is saved then)."""
        state = self.world.share(self.latest)
        if state:
            self.resume(state)
        elif self.settings.save_model:
            self.write("model_init.pt", self.model.state_dict())
        try:
            if self.settings.hessian_every and not self.epoch and not self.step_number:
                self.begin()
            while self.epoch < self.settings.epochs and self.stop_reason == "budget":
                order = self.order()
                while self.step_number < self.steps:
                    self.step(order)
                    if self.world.any(bool(signals.requested)):
                        self.save()
                        return True
                    if time.monotonic() - self.saved >= self.settings.checkpoint_seconds:
                        self.save()
                self.end_epoch()
            self.finish()
        finally:
            self.progress.close()
        return False

    def begin(self) -> None:
        """The line of the untrained network, where curvature is asked for."""
        loss, error = self.evaluate(self.data)
        self.log({"train_loss": error, "objective": loss}, curved=True)

    def order(self) -> Tensor:
        """Rows of the samples in the order of this epoch, which follows from the seed and the epoch alone."""
        if not self.config.shuffle:
            return torch.arange(len(self.data))
        generator = torch.Generator().manual_seed(((self.run.key.seed + 1) * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(len(self.data), generator=generator)

    def step(self, order: Tensor) -> None:
        """One update with the next batch."""
        start = self.step_number * self.settings.batch
        rows = order[start : start + self.settings.batch]
        count = len(rows)
        self.optimizer.zero_grad(set_to_none=False)
        sums = torch.zeros_like(self.sums)
        for block in self.world.part(rows).to(self.settings.device).split(self.settings.block):
            if len(block):  # the last batch may be smaller than the number of processes
                losses, errors = self.losses(*self.data.batch(block))
                (losses.sum() / count).backward()
                sums[:2] += torch.stack([losses.detach().sum(), errors.sum()])
        gradients = [p.grad for p in self.params]
        self.world.add(gradients)
        self.world.add([sums])
        sums[2] = torch.nn.utils.get_total_norm(gradients)
        self.sums += sums
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.step_number += 1
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        self.show()

    def learning_rate(self) -> float:
        """Of this epoch: lr (1 + cos(pi epoch / epochs)) / 2, or constant."""
        if self.config.scheduler == "none":
            return self.config.lr
        return self.config.lr * (1 + math.cos(math.pi * self.epoch / self.settings.epochs)) / 2

    def losses(self, f: Tensor, coefficients: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """What is minimised, and the relative L2 error, (B,) each."""
        return sample_losses(self.model(f, coefficients), u, self.config.loss_style)

    @torch.no_grad()
    def evaluate(self, samples: Samples) -> tuple[float, float]:
        """Mean loss and mean relative error over all samples."""
        total = torch.zeros(2, dtype=torch.float64, device=self.settings.device)
        rows = self.world.part(torch.arange(len(samples))).to(self.settings.device)
        for block in rows.split(min(self.config.valid_batch_size, self.settings.block)):
            if len(block):
                total += torch.stack([column.sum() for column in self.losses(*samples.batch(block))])
        self.world.add([total])
        loss, error = (total / len(samples)).tolist()
        return loss, error

    def end_epoch(self) -> None:
        """Validate where it is time, keep the best weights, log, and go to the next epoch."""
        loss, error, norm = self.sums.tolist()
        line: dict[str, float | None] = {
            "train_loss": error / len(self.data), "objective": loss / len(self.data),
            "val_error": None, "val_objective": None,
            "grad_norm": norm / self.steps, "learning_rate": self.learning_rate()}
        self.epoch, self.step_number, self.unvalidated = self.epoch + 1, 0, self.unvalidated + 1
        self.sums.zero_()
        ending = self.epoch == self.settings.epochs
        if not math.isfinite(loss):
            self.stop_reason, ending = "non_finite", True
        if ending or self.unvalidated >= self.settings.val_every:
            self.unvalidated = 0
            objective, error = self.evaluate(self.val)
            line |= {"val_error": error, "val_objective": objective}
            if objective < self.best["loss"]:
                self.best = {"epoch": self.epoch, "loss": objective, "error": error,
                             "model": copy.deepcopy(self.model.state_dict())}
        self.last = {name: value for name, value in self.last.items() if not name.startswith("lambda_max")}
        self.last |= {name: value for name, value in line.items() if value is not None}
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        times = self.settings.hessian_every
        curved = bool(times) and (ending or times.due(self.epoch - 1, self.epoch, self.settings.epochs))
        if ending or curved or self.epoch % self.settings.log_every == 0:
            self.log(line, curved)

    def log(self, line: dict[str, float | None], curved: bool) -> None:
        """A line of the history, with the highest curvature where it is time for it."""
        if not self.world.first:
            return
        row = {"iteration": self.epoch * self.steps, "epoch": self.epoch, "stage": self.config.optimizer, **line,
               "seconds": round(self.seconds, 3)}
        if curved:
            curvature = self.curvature()
            row, self.last = row | curvature, self.last | curvature
        self.run.log(row)
        self.wandb.log(self.run, row)

    def curvature(self) -> dict[str, float]:
        """Highest eigenvalue of the Hessian of the loss on a probe, and its residual: some eigenvalue is as near."""
        if self.probe is None:
            self.probe, _ = probe(self.settings)
        params = [p.detach()[None].requires_grad_() for p in self.params]
        loss = training_loss(self.settings, self.model, params, self.probe)
        top = lambda_max(loss, params, torch.arange(1))
        return {"lambda_max": top.value.item(), "lambda_max_residual": top.residual.item()}

    def show(self) -> None:
        """The progress line."""
        known = {name: self.last[name] for name in ("train_loss", "val_error") if name in self.last}
        self.progress.update(self.epoch * self.steps + self.step_number, self.settings.epochs * self.steps,
                             **{"epoch": self.epoch + 1}, **known)

    # Records ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Evaluate the last and the best weights, and record the run."""
        last = copy.deepcopy(self.model.state_dict())
        objective, train_error = self.evaluate(self.data)
        _, test_last = self.evaluate(self.test)
        metrics = {"train_objective": objective, "train_error_running": self.last["train_loss"],
                   "test_error_last": test_last, "val_error_last": self.last["val_error"]}
        metrics |= {name: value for name, value in self.last.items() if name.startswith("lambda_max")}
        best = self.best["model"] or last
        self.model.load_state_dict(best)
        _, test_error = self.evaluate(self.test)
        metrics |= {"train_error_best": self.evaluate(self.data)[1], "val_error": self.best["error"],
                    "val_objective": self.best["loss"], "best_epoch": self.best["epoch"], "epochs": self.epoch,
                    "parameters": sum(p.numel() for p in self.params), "processes": self.world.size}
        if not self.world.first:
            return
        if self.settings.save_model:
            self.write("model_best.pt", best)
        diverged = self.stop_reason == "non_finite"
        self.run.finish(status="diverged" if diverged else "finished", stop_reason=self.stop_reason,
                        train_loss=train_error, test_error=test_error, metrics=metrics,
                        iterations=self.epoch * self.steps, evaluations=self.epoch * self.steps,
                        seconds=round(self.seconds, 3), environment=environment(self.settings.device),
                        model=self.weights(last) if self.settings.save_model else None)
        self.wandb.finish(self.run, {"train_loss": train_error, "test_error": test_error})

    def weights(self, state: dict[str, Tensor]) -> dict[str, Any]:
        """What a file of weights holds."""
        return {"model": {name: value.detach().cpu().clone() for name, value in state.items()},
                "config": self.run.config}

    def write(self, name: str, state: dict[str, Tensor]) -> None:
        """Write weights into the run folder."""
        if self.world.first:
            atomic_write(self.run.path / name, tensor_writer(self.weights(state)))

    # Checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint."""
        if self.world.first:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "sums": self.sums,
                     "best": self.best, "unvalidated": self.unvalidated, "last": self.last, "seconds": self.seconds}
            if self.run.save((self.epoch, self.step_number), state):
                self.run.commit()
        self.saved = time.monotonic()

    def latest(self) -> tuple[tuple[int, ...], dict[str, Any]] | None:
        """The newest checkpoint that can be read, and its position."""
        positions = self.run.positions()
        return (positions[0], self.run.load(positions[0])) if positions else None

    def resume(self, found: tuple[tuple[int, ...], dict[str, Any]]) -> None:
        """Go on from a checkpoint."""
        (self.epoch, self.step_number), state = found
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums = state["sums"].to(self.settings.device)
        self.best, self.last = state["best"], state["last"]
        self.unvalidated, self.seconds = state["unvalidated"], state["seconds"]
