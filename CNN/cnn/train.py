"""The training loop of a ResNet: epochs of shuffled, augmented batches by SGD, into run folders; and step lengths.

    L(theta) = mean_i cross_entropy(network(x_i), y_i),    g = dL/dtheta + weight_decay theta
    v <- momentum v + g,    theta <- theta - lr v

With a `Recording`, training goes on until the loss of an epoch is small enough (or the epochs are over), and the
lengths |theta_{k+1} - theta_k| of the next updates are recorded: their distribution is the tail exponent of the
paper's Fig. 14 (steps.py).

The order and the augmentation of an epoch follow from the seed and the epoch alone. Position (epoch, step) of a
checkpoint counts the steps within an epoch; signals are obeyed and checkpoints written between steps.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import steps
from .data import Augment, Images, normalise
from .hessian import lambda_max
from .objective import probe, training_loss
from .record import REQUEUE, Run, begin
from .session import Progress, Signals, Wandb, environment, keep_freed_memory
from .settings import Settings

BUSY = 3  # exit code: nothing failed, but another process holds some of the runs
BLOCK = 500  # images evaluated at a time


def train(settings: Settings, runs: Sequence[Run]) -> int:
    """Train these runs, which differ in the seed, one after another and record them.

    Returns:
        0 when all are done, 1 when some failed, 3 when another process has some, 75 when interrupted by a signal
        (all is saved; the same call goes on).

    Raises:
        UsageError: for a run folder that cannot be written or holds another configuration.
    """
    ours, busy = begin(runs, settings.force, settings.label)
    code = BUSY if busy else 0
    if ours and settings.batch < settings.batch_size:
        print(f"n = {settings.n} is less than a batch of {settings.batch_size}: every update takes all images",
              file=sys.stderr)
    keep_freed_memory()
    with Signals() as signals:
        for run in ours:
            if signals.requested:
                break
            try:
                Trainer(settings, run).train(signals)
            except Exception as error:  # this run failed; the others go on
                run.fail(error)
                print(f"failed: {run.path}: {''.join(traceback.format_exception_only(error)).strip()} "
                      f"(traceback in failed.json there)", file=sys.stderr)
                code = 1
        for run in ours:
            run.release()
        if signals.requested:  # even with the last step: more cells of the map may be waiting
            print(f"stopped by {signals.requested} and saved; the same command{' without --force' * settings.force} "
                  f"goes on from here", file=sys.stderr)
            return REQUEUE
    return code


class Trainer:
    """One run: network, optimizer, where it stands, and its folder."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.run = settings, run
        self.data, self.test = settings.load()
        self.augment = Augment(settings.augment)
        self.model = settings.build(run.key.seed)
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(self.params, settings.lr, settings.momentum,
                                         weight_decay=settings.weight_decay)
        self.epoch_steps = math.ceil(settings.n / settings.batch)
        self.epoch, self.step_number = 0, 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=settings.device)  # of the epoch: loss, wrong, |g|
        self.last: dict[str, Any] = {}  # the newest line of the history, written or not
        self.reached = False  # the loss at which recording begins
        self.first_step: int | None = None  # the update at which it began
        self.lengths: list[float] = []
        self.losses: list[float] = []  # of the batches, before the update
        self.seconds, self.stop_reason = 0.0, ""
        self.progress = Progress(f"{settings.label} seed_{run.key.seed}")
        self.wandb = Wandb(settings.wandb, settings.wandb_project, settings.wandb_group)
        self.clock = self.saved = time.monotonic()

    # The loop ---------------------------------------------------------------------------------------------------

    def train(self, signals: Signals) -> None:
        """Train until the run is recorded, or a signal ends it early (everything is saved then)."""
        positions = self.run.positions()
        if positions:
            self.resume(positions[0])
        else:
            self.begin()
        try:
            while True:
                if self.last["iteration"] < self.updates and (self.step_number == self.epoch_steps or self.stop_reason):
                    self.end_epoch()
                if self.stop_reason:
                    break
                order, draws = self.shuffle()
                while self.step_number < self.epoch_steps and not self.stop_reason:
                    self.step(order, draws)
                    if signals.requested:
                        self.save()
                        return
                    if time.monotonic() - self.saved >= self.settings.checkpoint_seconds:
                        self.save()
            self.save()  # whatever hinders the result, a full disk for example, no step is lost
            self.finish()
        finally:
            self.progress.close()

    @property
    def updates(self) -> int:
        """Steps made."""
        return self.epoch * self.epoch_steps + self.step_number

    def begin(self) -> None:
        """The line of the untrained network: losses and errors of evaluation, not of training."""
        loss, error = self.evaluate(self.data)
        self.log({"train_loss": loss, "train_error": error, "grad_norm": None, "learning_rate": None})

    def shuffle(self) -> tuple[Tensor, Tensor]:
        """Rows of the images in the order of this epoch, (n,), and the draws of their augmentation, (n, k)."""
        generator = torch.Generator().manual_seed((self.run.key.seed + 1) * 1_000_003 + self.epoch)
        order = torch.randperm(self.settings.n, generator=generator)
        draws = self.augment.draw(self.settings.n, generator)
        return order.to(self.settings.device), draws.to(self.settings.device)

    def step(self, order: Tensor, draws: Tensor) -> None:
        """One update with the next batch, its length recorded where it is time."""
        pixels, labels = self.batch(order, draws)
        self.model.train()
        with torch.autocast(self.settings.device.type, torch.bfloat16, self.settings.mixed_precision == "bf16"):
            logits = self.model(pixels)
        loss = cross_entropy(logits.to(self.settings.dtype), labels)
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.params])
        wrong = (logits.detach().argmax(1) != labels).sum()
        self.sums += torch.stack([loss.detach() * len(labels), wrong.to(loss), norm])
        if self.first_step is None:
            self.optimizer.step()
        else:
            self.record(loss)
        self.step_number += 1
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        self.show()

    def batch(self, order: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, 32, 32) and labels (B,) of the next batch, augmented."""
        part = slice(self.step_number * self.settings.batch, (self.step_number + 1) * self.settings.batch)
        images = self.data.select(order[part])
        return self.normalise(self.augment.apply(images.pixels, draws[part])), images.labels

    def normalise(self, pixels: Tensor) -> Tensor:
        """Images as the network sees them."""
        return normalise(pixels, self.settings.data.dataset.name, self.settings.dtype)

    def record(self, loss: Tensor) -> None:
        """The update whose length is recorded; weights alone count, not the running statistics."""
        before = [p.detach().clone() for p in self.params]
        self.optimizer.step()
        squares = [(p.detach().double() - q.double()).square().sum() for p, q in zip(self.params, before, strict=True)]
        self.lengths.append(torch.stack(squares).sum().sqrt().item())
        self.losses.append(loss.item())
        if not math.isfinite(self.lengths[-1]):
            self.stop_reason = "non_finite"
        elif len(self.lengths) == self.settings.recording.steps:
            self.stop_reason = "budget"

    def learning_rate(self) -> float:
        """Of this epoch: lr (1 + cos(pi epoch / epochs)) / 2, or constant."""
        if self.settings.schedule == "constant":
            return self.settings.lr
        return self.settings.lr * (1 + math.cos(math.pi * self.epoch / self.settings.epochs)) / 2

    def end_epoch(self) -> None:
        """Log, go to the next epoch, and see whether training is over; a recording may end within an epoch."""
        loss, wrong, norm = self.sums.tolist()
        seen = min(self.step_number * self.settings.batch, self.settings.n)
        line = {"train_loss": loss / seen, "train_error": wrong / seen, "grad_norm": norm / self.step_number,
                "learning_rate": self.learning_rate()}
        if self.step_number == self.epoch_steps:
            self.epoch, self.step_number = self.epoch + 1, 0
            self.sums.zero_()
        if not math.isfinite(loss):
            self.stop_reason = "non_finite"
        elif self.settings.recording is None:
            self.stop_reason = "budget" if self.epoch == self.settings.epochs else ""
        elif self.first_step is None:
            self.reached = line["train_loss"] <= self.settings.recording.loss
            if self.reached or self.epoch == self.settings.epochs:
                self.first_step = self.updates
        self.log(line)

    def log(self, line: dict[str, Any]) -> None:
        """A line of the history for the network as it is now: at the ends of epochs and of the run."""
        ending, every = self.stop_reason or not self.updates, self.settings.hessian_every
        stage = "sgd" if self.first_step is None or self.updates <= self.first_step else "recording"
        self.last = {"iteration": self.updates, "epoch": self.epoch, "stage": stage, **line}
        curved = every and (ending or every.due(self.epoch - 1, self.epoch, self.settings.epochs))
        if not (ending or curved or self.epoch % self.settings.log_every == 0):
            return
        self.last["test_loss"], self.last["test_error"] = self.evaluate(self.test)
        if curved:
            self.last["lambda_max"], self.last["lambda_max_residual"] = self.curvature()
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        row = self.last | {"seconds": round(self.seconds, 3)}
        self.run.log(row)
        self.wandb.log(self.run, row)

    @torch.no_grad()
    def evaluate(self, images: Images) -> tuple[float, float]:
        """Mean cross-entropy and the share of wrong labels, by the running statistics, without augmentation."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.settings.device)
        for start in range(0, len(images), BLOCK):
            block = images.select(slice(start, start + BLOCK))
            logits = self.model(self.normalise(block.pixels))
            wrong = (logits.argmax(1) != block.labels).sum()
            total += torch.stack([cross_entropy(logits, block.labels, reduction="sum"), wrong.to(logits)])
        loss, error = (total / len(images)).tolist()
        return loss, error if math.isfinite(loss) else math.nan  # labels of NaN are no labels

    def curvature(self) -> list[float]:
        """Highest eigenvalue of the Hessian of the loss on a probe, by the running statistics, and its residual: some
        eigenvalue is as near.
        """
        images = probe(self.settings.data.train).to(self.settings.device)
        params = [p.detach()[None].requires_grad_() for p in self.params]  # of one run
        loss = training_loss(self.model, params, dict(self.model.named_buffers()), self.normalise(images.pixels),
                             images.labels)
        top = lambda_max(loss, params, torch.arange(1))
        return torch.cat([top.value, top.residual]).tolist()

    def show(self) -> None:
        """The progress line."""
        total = self.settings.epochs * self.epoch_steps
        if self.settings.recording:
            total = (total if self.first_step is None else self.first_step) + self.settings.recording.steps
        known = {name: self.last[name] for name in ("train_loss", "test_error") if name in self.last}
        self.progress.update(self.updates, total, epoch=self.epoch + 1, **known)

    # Records ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Evaluate the final weights and record the run."""
        loss, error = self.evaluate(self.data)
        test_loss, test_error = self.evaluate(self.test)
        metrics = {"train_error": error, "test_loss": test_loss, "train_loss_running": self.last["train_loss"],
                   "epochs": self.epoch, "parameters": sum(p.numel() for p in self.params)}
        metrics |= {name: value for name, value in self.last.items() if name.startswith("lambda_max")}
        diverged = self.stop_reason == "non_finite"
        if self.lengths:
            metrics |= self.write_steps()
        model = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        self.run.finish(status="diverged" if diverged else "finished", stop_reason=self.stop_reason, train_loss=loss,
                        test_error=test_error, metrics=metrics, iterations=self.updates, evaluations=self.updates,
                        seconds=round(self.seconds, 3), environment=environment(self.settings.device),
                        model={"model": model, "config": self.run.config} if self.settings.save_model else None)
        self.wandb.finish(self.run, {"train_loss": loss, "test_error": test_error})

    def write_steps(self) -> dict[str, Any]:
        """Write the recorded lengths and their tail exponent into the run folder; the latter is given back too."""
        tail = steps.write(self.run.path, self.lengths, self.losses, {
            "loss": self.settings.recording.loss, "reached": self.reached, "iteration": self.first_step,
            "unit": "SGD step", "lr": self.settings.lr})
        return {"alpha": tail.alpha, "alpha_error": tail.error, "alpha_distance": tail.distance,
                "alpha_count": tail.count, "length_log_sd": tail.log_sd, "reached": self.reached,
                "first_step": self.first_step}

    # Checkpoints ------------------------------------------------------------------------------------------------

    STATE = ("sums", "last", "reached", "first_step", "lengths", "losses", "seconds", "stop_reason")

    def save(self) -> None:
        """Write a checkpoint."""
        state = {name: getattr(self, name) for name in self.STATE}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.run.save((self.epoch, self.step_number), state):
            self.run.commit()
        self.saved = time.monotonic()

    def resume(self, position: tuple[int, ...]) -> None:
        """Go on from the checkpoint at `position`."""
        state = self.run.load(position)
        self.epoch, self.step_number = position
        self.model.load_state_dict(state.pop("model"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        for name, value in state.items():
            setattr(self, name, value)
        self.sums = self.sums.to(self.settings.device)
