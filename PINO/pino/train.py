# Twin of PINN/pinn/train.py - edit there and run: python experiments/twins.py --fix
"""The training loop: R networks side by side, through the stages of a strategy, into R run folders.

Everything is per row of the stack: iterations, stopping, divergence, logging, checkpoints. A step is one call of the
optimizer; signals are obeyed and checkpoints written between steps. Position (stage, step) of a checkpoint counts the
steps within a stage.

What is trained is the module's: `Settings` makes the rows, the weights and the strategy, and the strategy's objective
evaluates them (`strategies/base.py` says what both must offer).
"""

import math
import sys
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .files import UsageError
from .hessian import lambda_max
from .record import REQUEUE, Run, begin, common_position
from .session import Progress, Signals, Wandb, environment, keep_freed_memory
from .settings import Settings
from .strategies.base import Stage

WRITERS = 8  # files written at a time: most of the time goes by waiting for the disk
SPARING = 20  # a checkpoint that took t seconds is not repeated before SPARING t have passed
CURVATURE = "finished runs get no lambda_max along training; diagnose.py hessian computes it for their weights"
BUSY = 3  # exit code: nothing failed, but another process holds some of the runs


def train(settings: Settings, runs: Sequence[Run]) -> int:
    """Train these runs side by side and record them.

    Returns:
        0 when all are done, 1 when some failed, 3 when another process has some, 75 when interrupted by a signal
        (all is saved; the same call goes on).

    Raises:
        UsageError: for a run folder that cannot be written or holds another configuration.
    """
    check(settings, runs)
    ours, busy = begin(runs, settings.force, settings.label)
    if settings.hessian_every and any(run.is_done() for run in runs):
        print(CURVATURE, file=sys.stderr)
    code = BUSY if busy else 0
    keep_freed_memory()
    with Signals() as signals:
        for position, group in groups(settings, ours):
            try:
                trained = Group(settings, group, position)
                interrupted = trained.train(signals)
                code = 1 if trained.failed else code
            except Exception as error:  # these runs failed; those of other groups go on
                if isinstance(error, UsageError):
                    raise
                for run in group:
                    if not run.is_done():
                        run.fail(error)
                print(f"failed: {settings.label}: {''.join(traceback.format_exception_only(error)).strip()} "
                      f"(traceback in failed.json of its run folders)", file=sys.stderr)
                code = 1
                continue
            if interrupted:
                break
        if signals.requested:  # even when it came with the last step: more rows of the map may be waiting
            print(f"stopped by {signals.requested} and saved; the same command{' without --force' * settings.force} "
                  f"goes on from here", file=sys.stderr)
            return REQUEUE
    return code


def check(settings: Settings, runs: Sequence[Run]) -> None:
    """Look that none of the folders holds another configuration; nothing is written.

    Raises:
        UsageError: naming the arguments that differ.
    """
    if not settings.force:
        for run in runs:
            run.check_config()


def groups(settings: Settings, runs: Sequence[Run]) -> list[tuple[tuple[int, ...] | None, list[Run]]]:
    """Runs that go on together, with their positions; None: from the beginning.

    A checkpoint without weights is one of the very beginning, or of a run that follows another one's row (in a
    curriculum) and is started without that other run: it begins anew.
    """
    found, fresh = [], []
    for position, group in common_position(runs):
        lost = []
        for row in settings.plan([run.key for run in group]) if position else []:
            if not group[row.owner].load(position, mapped=True):
                lost += [group[k] for k, _ in row.runs]
        for run in lost:
            run.restart()
        kept = [run for run in group if run not in lost]
        fresh += lost if position else kept
        if position and kept:
            found.append((position, kept))
    return [*found, (None, [run for run in runs if run in fresh])] if fresh else found


@dataclass
class Counters:
    """Where one row stands. All of it is in the checkpoint."""

    iterations: int = 0  # in all stages before this one
    in_stage: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    stopped: bool = False  # this stage is over for the row
    diverged: bool = False
    reason: str = "budget"
    logged: int = -1  # the iteration of the last row in history.csv
    marks: dict[str, float] = field(default_factory=dict)  # loss and error at the ends of stages
    curvature: dict[str, float] = field(default_factory=dict)  # the last that was computed
    curved: int = -1  # the iteration at which it was

    @property
    def total(self) -> int:
        """Inner iterations so far."""
        return self.iterations + self.in_stage


class Group:
    """Runs that are trained side by side from a common position."""

    def __init__(self, settings: Settings, runs: Sequence[Run], position: tuple[int, ...] | None) -> None:
        self.settings, self.runs = settings, list(runs)
        self.failed: set[int] = set()  # runs whose result could not be written
        self.rows = settings.plan([run.key for run in runs])
        self.params, self.strategy = settings.build(self.rows)
        self.objective = self.strategy.objective
        self.stages = self.strategy.stages
        for row in self.rows:
            row.runs = [(k, stage % len(self.stages)) for k, stage in row.runs]
        self.counters = [Counters() for _ in self.rows]
        self.lengths = [sum(stage.length(r) for stage in self.stages[:row.last_stage + 1])
                        for r, row in enumerate(self.rows)]
        self.calls = torch.zeros(len(self.rows), dtype=torch.int64)  # evaluations in the step at work
        self.stage, self.steps = 0, 0
        self.optimizer: torch.optim.Optimizer | None = None
        self.environment = environment(settings.device)
        self.progress = Progress(settings.label)
        self.wandb = Wandb(settings.wandb, settings.wandb_project, group=settings.wandb_group)
        self.clock = self.saved = time.monotonic()
        self.pause = settings.checkpoint_seconds
        if position is not None:
            self.resume(position)

    # The loop ---------------------------------------------------------------------------------------------------

    def train(self, signals: Signals) -> bool:
        """Train until every run is recorded; True when a signal ended it early (everything is saved then)."""
        resumed = self.optimizer is not None
        try:
            while self.stage < len(self.stages):
                stage = self.stages[self.stage]
                if not resumed:
                    self.strategy.advance(self.stage)
                    if stage.restores:  # other weights at the same iteration: one more line
                        for counter in self.counters:
                            counter.logged = counter.curved = -1
                    self.optimizer = stage.build(self.params)
                self.strategy.enter(self.stage)
                if not resumed and self.stage == 0:
                    for run in self.runs:  # killed within the first real checkpoint, all begin anew together
                        run.save((0, 0), {})
                    self.log(range(len(self.rows)), curved=range(len(self.rows)))
                resumed = False
                while self.active(stage).any():
                    self.step(stage)
                    if signals.requested:
                        self.save()
                        return True
                    if time.monotonic() - self.saved >= self.pause:
                        self.save()
                self.end_stage(stage)
        finally:
            self.progress.close()
            for run in self.runs:
                run.release()
        return False

    def active(self, stage: Stage) -> Tensor:
        """Rows (R,) that this stage still advances."""
        out_of_steps = stage.steps is not None and self.steps >= stage.steps
        return torch.tensor([not (c.stopped or c.diverged or out_of_steps) and c.in_stage < stage.length(r)
                             and row.last_stage >= self.stage
                             for r, (c, row) in enumerate(zip(self.counters, self.rows, strict=True))])

    def step(self, stage: Stage) -> None:
        """One call of the optimizer for all active rows, then bookkeeping."""
        active, optimizer = self.active(stage), self.optimizer
        running = active.nonzero().flatten().tolist()
        before = [counter.total for counter in self.counters]
        self.strategy.before_step(active)
        optimizer.active = active
        if hasattr(optimizer, "limit"):
            optimizer.limit = torch.tensor([stage.length(r) for r in range(len(active))])
        losses = optimizer.step(self.closure(optimizer))
        self.strategy.after_step(active)
        self.steps += 1
        now = time.monotonic()
        losses, calls = losses.cpu(), self.calls.tolist()
        for r, loss in zip(running, losses[running].tolist(), strict=True):
            self.counters[r].evaluations += calls[r]
            self.count(r, loss, now - self.clock, last=self.steps == stage.steps)
        self.calls.zero_()
        self.clock = now
        self.log_step(running, before, self.strategy.trace(losses))
        self.show(losses)

    def closure(self, optimizer: torch.optim.Optimizer):
        """What the optimizer calls: evaluates the rows that it marks as active."""
        def rows() -> Tensor:
            self.calls += optimizer.active
            return optimizer.active

        def backward() -> Tensor:
            wanted = rows()
            self.strategy.before_evaluation(wanted)
            losses = self.objective.backward(self.params, wanted.nonzero().flatten())
            self.strategy.after_evaluation(wanted)
            return losses

        def graph() -> Tensor:
            return self.objective.losses(self.params, rows().nonzero().flatten())
        return graph if getattr(optimizer, "wants_graph", False) else backward

    def count(self, r: int, loss: float, seconds: float, last: bool) -> None:
        """Book what a step, the last of its stage or not, did to row r."""
        counter, optimizer = self.counters[r], self.optimizer
        counter.seconds += seconds
        counter.in_stage = int(optimizer.run_state["n_iter"][r])
        reason = optimizer.ended(r) if math.isfinite(loss) else "non_finite"
        if reason == "non_finite":
            counter.diverged, counter.reason = True, reason
        elif reason and not self.strategy.redraws:
            counter.stopped, counter.reason = True, reason
        elif last and hasattr(optimizer, "stop_reason") and optimizer.stop_reason(r) not in ("", "max_iter"):
            counter.reason = optimizer.stop_reason(r)

    def end_stage(self, stage: Stage) -> None:
        """Record the runs that are complete, and go to the next stage."""
        rows = [r for r, row in enumerate(self.rows) if row.last_stage >= self.stage]
        columns = self.log(rows)
        last = self.stage == len(self.stages) - 1
        for r in rows:
            counter = self.counters[r]
            if self.strategy.marks and not last:
                counter.marks |= {f"{stage.name}_{name}": columns[name][r] for name in ("train_loss", "test_error")}
        ending = [(r, k) for r in rows for k, end in self.rows[r].runs if end == self.stage]
        if ending:
            self.save()  # killed while they are recorded, the others go on from here, with the same company
            self.finish(ending, columns)
        for counter in self.counters:
            counter.iterations, counter.in_stage = counter.total, 0
            if not (last or counter.diverged):
                counter.stopped, counter.reason = False, "budget"
        self.stage, self.steps, self.optimizer = self.stage + 1, 0, None

    # Records ----------------------------------------------------------------------------------------------------

    def log_step(self, running: Sequence[int], before: Sequence[int], trace: Mapping[str, Sequence[float]]) -> None:
        """Append a line for those that made a step, from iteration `before`, where it is time, or there is a trace."""
        every, times = self.settings.log_every, self.settings.hessian_every
        curved = [r for r in running if times.due(before[r], self.counters[r].total, self.lengths[r])]
        if min(before[r] for r in running) // every < min(self.counters[r].total for r in running) // every:
            whole = running
        else:
            going = self.active(self.stages[self.stage])
            whole = [r for r in running if r in curved or trace and not going[r]]
        if whole:
            self.log(whole, trace, curved)
        if trace:
            self.write_lines([r for r in running if r not in whole], {}, trace)

    def log(self, rows: Sequence[int], trace: Mapping[str, Sequence[float]] | None = None,
            curved: Collection[int] = ()) -> dict[str, list[float]]:
        """Append a line to the histories of these rows, with the `trace` of a step; returns the columns, (R,) each.

        Those in `curved` get their highest curvature as well, and where it is asked for those at the end of a run.
        """
        wanted = torch.tensor(list(rows))  # only these: rounding depends on the company
        columns = self.objective.columns(self.params, wanted)
        columns["grad_norm"] = self.objective.gradient_norms(self.params, wanted)
        extra = {**(trace or {}), **self.strategy.columns()}
        if hasattr(self.optimizer, "columns"):
            extra |= self.optimizer.columns()
        if self.settings.hessian_every:
            going = self.active(self.stages[self.stage])
            final = [not going[r] and any(end == self.stage for _, end in row.runs) for r, row in enumerate(self.rows)]
            extra |= self.curvature([r for r in rows if (r in curved or final[r])
                                     and self.counters[r].logged != self.counters[r].total])
        self.write_lines(rows, columns, extra)
        return columns

    def curvature(self, rows: Sequence[int]) -> dict[str, list[float | str]]:
        """Columns with the highest eigenvalue of the Hessian of the training loss and its residual, "" elsewhere."""
        for group in torch.tensor(rows, dtype=torch.int64).split(self.objective.graph_size or len(self.rows)):
            if len(group):
                top = lambda_max(self.objective.training_losses(self.params, group), self.params, group)
                for r, value, residual in zip(group.tolist(), top.value.tolist(), top.residual.tolist(), strict=True):
                    counter = self.counters[r]
                    counter.curvature = {"lambda_max": value, "lambda_max_residual": residual}
                    counter.curved = counter.total
        return {name: [self.counters[r].curvature[name] if r in rows else "" for r in range(len(self.rows))]
                for name in ("lambda_max", "lambda_max_residual")}

    def write_lines(self, rows: Sequence[int], columns: Mapping[str, Sequence[float]],
                    extra: Mapping[str, Sequence[float]]) -> None:
        """Append columns, those in `extra` last, (R,) each, to the histories of these rows."""
        for r in rows:
            counter = self.counters[r]
            if counter.logged == counter.total:  # the end of a stage often is a time to log as well
                continue
            counter.logged = counter.total
            line = {"iteration": counter.total, "stage": self.stages[self.stage].name,
                    **{name: column[r] for name, column in columns.items()}, "evaluations": counter.evaluations,
                    "seconds": round(counter.seconds, 3), **{name: column[r] for name, column in extra.items()}}
            for k, end in self.rows[r].runs:
                if end >= self.stage and k not in self.failed and not self.runs[k].is_done():
                    hidden = self.strategy.last_stage_only if end > self.stage else ()
                    self.runs[k].log(line | dict.fromkeys(hidden, ""))
                    self.wandb.log(self.runs[k], {name: line[name] for name in line.keys() - {*hidden}
                                                  if line[name] != ""})

    def finish(self, ending: Sequence[tuple[int, int]], columns: dict[str, list[float]]) -> None:
        """Write the final records of (row, run) pairs."""
        columns = columns | self.objective.results(self.params)

        def write(r: int, k: int) -> dict[str, float] | None:
            run, counter = self.runs[k], self.counters[r]
            metrics = {name: column[r] for name, column in columns.items()}
            result = {name: metrics.pop(name) for name in ("train_loss", "test_error")}
            metrics |= {"runs_side_by_side": len(self.rows), **counter.marks}
            metrics |= counter.curvature if counter.curved == counter.total else {}
            model = {"params": [p[r].detach().cpu().clone() for p in self.params], "config": run.config}
            try:
                self.objective.write_files(run.path, r)
                run.finish(status="diverged" if counter.diverged else "finished", stop_reason=counter.reason, **result,
                           metrics=metrics, iterations=counter.total, evaluations=counter.evaluations,
                           seconds=round(counter.seconds, 3), environment=self.environment,
                           model=model if self.settings.save_model else None)
            except OSError as error:  # its folder is gone, or the disk is full: the other runs go on
                self.failed.add(k)
                run.fail(error)
                print(f"failed: {run.path}: {error}", file=sys.stderr)
                return None
            return result
        ending = [(r, k) for r, k in ending if not self.runs[k].is_done()]
        with ThreadPoolExecutor(WRITERS) as pool:
            results = list(pool.map(write, *zip(*ending, strict=True)))
        for (_, k), result in zip(ending, results, strict=True):
            if result is not None:
                self.wandb.finish(self.runs[k], result)

    def show(self, losses: Tensor) -> None:
        """The progress line: iterations of all rows, and the median loss of those at work."""
        over = self.steps == self.stages[self.stage].steps
        ended = [c.diverged or ((c.stopped or over) and self.stage == row.last_stage) or row.last_stage < self.stage
                 for c, row in zip(self.counters, self.rows, strict=True)]
        done = sum(length if over else min(c.total, length)
                   for length, over, c in zip(self.lengths, ended, self.counters, strict=True))
        finite = losses[losses.isfinite()]
        self.progress.update(done, sum(self.lengths), (len(self.rows) - sum(ended), len(self.rows)),
                             loss=float(finite.median()) if len(finite) else math.nan)

    # Checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of every row; runs that only follow a row note the position."""
        position, start = (self.stage, self.steps), time.monotonic()

        def write(r: int) -> bool:
            state = {"params": [p[r].detach() for p in self.params], "counters": vars(self.counters[r]),
                     "optimizer": {name: value[r] for name, value in self.optimizer.run_state.items()},
                     "strategy": {name: value[r] for name, value in self.strategy.state.items()}}
            row, complete = self.rows[r], True
            for k, _ in row.runs:
                if k not in self.failed and not self.runs[k].is_done():
                    complete &= self.runs[k].save(position, state if k == row.owner else {})
            return complete
        with ThreadPoolExecutor(WRITERS) as pool:
            complete = list(pool.map(write, range(len(self.rows))))
        if all(complete):
            for run in self.runs:
                run.commit()
        self.saved = time.monotonic()
        if self.pause:  # 0: after every step
            self.pause = max(self.settings.checkpoint_seconds, SPARING * (self.saved - start))

    def resume(self, position: tuple[int, ...]) -> None:
        """Go on from the checkpoints at `position`."""
        self.stage, self.steps = position
        loaded = {k: self.runs[k].load(position, mapped=True) for row in self.rows for k, _ in row.runs}
        states = [loaded[row.owner] for row in self.rows]
        with torch.no_grad():
            for i, p in enumerate(self.params):
                p.copy_(stack([state["params"][i] for state in states]))
        self.counters = [Counters(**state["counters"]) for state in states]
        for name in states[0]["strategy"]:
            rows = stack([state["strategy"][name] for state in states])
            self.strategy.state[name] = rows.to(self.settings.device if rows.is_floating_point() else "cpu", copy=True)
        self.optimizer = self.stages[self.stage].build(self.params)
        for name, fresh in self.optimizer.run_state.items():
            fresh.copy_(stack([state["optimizer"][name] for state in states]))


def stack(rows: Sequence[Tensor]) -> Tensor:
    """Tensors along a new first axis; a single one is not copied."""
    return rows[0][None] if len(rows) == 1 else torch.stack(list(rows))
