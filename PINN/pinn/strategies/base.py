"""What the strategies share: stages, options, and the hooks that the training loop calls.

A strategy is a list of stages, each an optimizer with a number of iterations, and whatever it changes on the way: the
density of the loss (`alm`), the physical value (`cl`), the collocation points (`ropinn`). To add one, copy the file of
the nearest sibling, change the idea, and enter the class in `strategies/__init__.py`.

Rows and runs: the training loop moves R stacked networks, the rows. A run (a run folder) is read off a row after one
of its stages; for all strategies but the curriculum a row serves one run, at its last stage.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from pinn.files import UsageError
from pinn.objective import Objective
from pinn.optimizers.lbfgs import LBFGS


@dataclass
class AdamOptions:
    """Adam (Kingma and Ba 2015)."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def build(self, params: Sequence[Tensor], group_size: int | None = None) -> torch.optim.Optimizer:
        """Adam acts on every weight by itself, so stacked runs do not touch each other."""
        return torch.optim.Adam(params, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps)


@dataclass
class LBFGSOptions:
    """L-BFGS with a strong-Wolfe line search; the paper's Table 2."""

    lr: float = 1.0
    max_iter: int = 20
    history_size: int = 100
    tolerance_grad: float = 1e-7
    tolerance_change: float = 1e-9

    def build(self, params: Sequence[Tensor], group_size: int | None = None) -> LBFGS:
        """A fresh L-BFGS; `group_size` runs are walked together."""
        return LBFGS(params, lr=self.lr, max_iter=self.max_iter, history_size=self.history_size,
                     tolerance_grad=self.tolerance_grad, tolerance_change=self.tolerance_change,
                     group_size=group_size)


@dataclass
class Stage:
    """Training with one optimizer: ends after `iterations` of each row, or `steps` calls of the optimizer."""

    name: str
    iterations: int
    build: Callable[[Sequence[Tensor]], torch.optim.Optimizer]
    steps: int | None = None


@dataclass
class Row:
    """One stacked network: its seed, the physical value it ends at, and the runs that are read off it.

    `runs` pairs each run's position in the caller's list with the stage after which it is complete.
    """

    seed: int
    physical: float
    runs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def owner(self) -> int:
        """The run whose folder holds the row's checkpoint: the one that ends last."""
        return max(self.runs, key=lambda pair: (pair[1], -pair[0]))[0]

    @property
    def last_stage(self) -> int:
        """The stage after which nothing of this row is wanted any more."""
        return max(stage for _, stage in self.runs)


class Strategy:
    """The soft-constrained loss, unchanged through all stages. Subclasses say what differs.

    Attributes:
        name: as on the command line and in the run folder.
        Options: dataclass of all options, at the paper's values.
        budgets: what `--budget smoke|laptop` changes in them.
        main: the nested optimizer whose options may be given without prefix.
        aliases: published names of options that are called otherwise here.
        marks: loss and test error at the end of each stage are kept in metrics.json.
        redraws: the loss changes between steps, so a step that moves nothing is no reason to stop.
        state: what a checkpoint must hold beside weights and optimizer: tensors with leading axis R.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    main: ClassVar[str] = "lbfgs"
    aliases: ClassVar[Mapping[str, str]] = {}
    marks: ClassVar[bool] = False
    redraws: ClassVar[bool] = False

    def __init__(self, options: Any, objective: Objective, params: Sequence[Tensor], rows: Sequence[Row]) -> None:
        self.options, self.objective, self.params, self.rows = options, objective, list(params), list(rows)
        self.state: dict[str, Tensor] = {}
        self.stages = self.make_stages(options, [row.physical for row in rows])

    @property
    def group_size(self) -> int | None:
        """Runs that an optimizer walks together: all on a GPU; 8 on a CPU, where they were faster than 4 or 1."""
        return None if self.params[0].is_cuda else min(8, self.objective.runs_a_block)

    def make_stages(self, options: Any, targets: Sequence[float]) -> list[Stage]:
        """The stages in order; `targets` are the physical values that the rows end at."""
        raise NotImplementedError

    @classmethod
    def plan(cls, options: Any, system: str, physical: Sequence[float], seeds: Sequence[int]) -> list[Row]:
        """Rows for runs with these physical values and seeds; a run ends with the last stage (-1)."""
        return [Row(seed, value, [(k, -1)]) for k, (value, seed) in enumerate(zip(physical, seeds, strict=True))]

    @classmethod
    def set_epochs(cls, options: Any, epochs: int) -> None:
        """The published `--epochs`: calls of the optimizer's step, 20 inner iterations each for L-BFGS."""
        options.iterations = epochs * options.lbfgs.max_iter

    def advance(self, stage: int) -> None:
        """Called once when a stage begins; may change `state`."""

    def enter(self, stage: int) -> None:
        """Called when a stage begins and when a run is resumed within it; sets up the objective from `state`."""

    def before_step(self, active: Tensor) -> None:
        """Called before each step of the optimizer with the active rows (R,) bool."""

    def before_evaluation(self, active: Tensor) -> None:
        """Called before each evaluation of the loss."""

    def after_evaluation(self, active: Tensor) -> None:
        """Called after each evaluation; gradients of the active rows are in `.grad`."""

    def after_step(self, active: Tensor) -> None:
        """Called after each step of the optimizer."""

    def columns(self) -> dict[str, Sequence[float]]:
        """More columns of the history, (R,) each."""
        return {}


def stream_seed(seed: int, name: str) -> int:
    """Seed of a named random stream of a run, independent of its other streams."""
    return int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)[0] >> 1)


def flatten(options: Any) -> dict[str, Any]:
    """Options by name, those of nested optimizers with their prefix: {"iterations": ..., "lbfgs_lr": ...}."""
    flat = {}
    for entry in fields(options):
        value = getattr(options, entry.name)
        if is_dataclass(value):
            flat |= {f"{entry.name}_{key}": v for key, v in flatten(value).items()}
        else:
            flat[entry.name] = value
    return flat


def set_option(options: Any, key: str, value: Any, main: str, flag: str) -> None:
    """Set one option by its flat name; names of the main optimizer need no prefix.

    Raises:
        UsageError: for an unknown name or a value of the wrong type, naming `flag` and what is allowed.
    """
    for owner, name in _places(options, key, main):
        kind = get_type_hints(type(owner))[name]
        kinds = get_args(kind) or (kind,)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and not math.isfinite(value):
            raise UsageError(f"{flag}: {key} must be finite, got {value}")
        if float in kinds and number:
            value = float(value)
        elif int in kinds and number and float(value).is_integer():
            value = int(value)
        elif not any(isinstance(value, k) and (k is bool) == isinstance(value, bool) for k in kinds):
            expected = " or ".join(k.__name__ for k in kinds)
            raise UsageError(f"{flag}: {key} must be {expected}, got {value!r}")
        setattr(owner, name, value)
        return
    raise UsageError(f"{flag}: unknown option {key!r}; allowed: {', '.join(flatten(options))}")


def _places(options: Any, key: str, main: str) -> list[tuple[Any, str]]:
    found = []
    for entry in fields(options):
        value = getattr(options, entry.name)
        if not is_dataclass(value):
            found += [(options, entry.name)] if entry.name == key else []
            continue
        names = [f.name for f in fields(value)]
        if key.startswith(f"{entry.name}_") and key.removeprefix(f"{entry.name}_") in names:
            found.append((value, key.removeprefix(f"{entry.name}_")))
        elif entry.name == main and key in names:
            found.append((value, key))
    return found
