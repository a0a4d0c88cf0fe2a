# Twin of PINN/pinn/strategies/base.py - edit there and run: python experiments/twins.py --fix
"""What the strategies share: stages, options, and the hooks that the training loop calls.

A strategy is a list of stages, each an optimizer with a number of iterations, and whatever it changes on the way: the
density of the loss, the physical value, the training points. To add one, copy the file of the nearest sibling, change
the idea, and enter the class in `strategies/__init__.py`.

Rows and runs: the training loop moves R stacked networks, the rows. A run (a run folder) is read off a row after one
of its stages; for all strategies but the curriculum a row serves one run, at its last stage.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from ..files import UsageError
from ..record import RunKey


class Objective(Protocol):
    """What is minimised and measured, for R stacked networks; the training loop asks for no more than this.

    `rows` (r,) are the wanted ones, ascending. What is returned for all R is arbitrary for the others.
    """

    group_size: int | None  # rows that an optimizer should walk together, None: all
    graph_size: int | None  # rows whose graphs for Hessian products should be held together, None: all

    def backward(self, params: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Losses (R,) of the wanted rows; their gradients are written to `.grad`."""

    def losses(self, params: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Losses (R,) with the graph that a Hessian-vector product needs."""

    def training_losses(self, params: Sequence[Tensor], rows: Tensor) -> Tensor | Iterable[Tensor]:
        """The same for the training loss as reported, whatever is minimised; or the parts that it is a sum of."""

    def columns(self, params: Sequence[Tensor], rows: Tensor) -> dict[str, list[float]]:
        """Columns of the history, (R,) each: `train_loss`, `test_error` and whatever else is worth a look."""

    def gradient_norms(self, params: Sequence[Tensor], rows: Tensor) -> list[float]:
        """|gradient| of what is minimised, (R,)."""

    def results(self, params: Sequence[Tensor]) -> dict[str, list[float]]:
        """More numbers for metrics.json, (R,) each; computed once, at the end."""

    def write_files(self, folder: Path, row: int) -> None:
        """Write more files into the run folder of a row, before its result."""


@dataclass
class Stage:
    """Training with one optimizer: ends after `iterations` of each row, or `steps` calls of the optimizer.

    `iterations` is a number for all rows, or a list with one for each.
    """

    name: str
    iterations: int | list[int]
    build: Callable[[Sequence[Tensor]], torch.optim.Optimizer]
    steps: int | None = None
    restores: bool = False  # goes back to earlier weights as it begins, and is over

    def length(self, row: int) -> int:
        """Iterations of this row."""
        return self.iterations if isinstance(self.iterations, int) else self.iterations[row]


@dataclass
class Row:
    """One stacked network: where it ends, and the runs that are read off it.

    `runs` pairs each run's position in the caller's list with the stage after which it is complete.
    """

    key: RunKey
    runs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """Seed of the weights."""
        return self.key.seed

    @property
    def physical(self) -> float:
        """The physical value that the row ends at."""
        return self.key.physical_value

    @property
    def owner(self) -> int:
        """The run whose folder holds the row's checkpoint: the one that ends last."""
        return max(self.runs, key=lambda pair: (pair[1], -pair[0]))[0]

    @property
    def last_stage(self) -> int:
        """The stage after which nothing of this row is wanted any more."""
        return max(stage for _, stage in self.runs)


class Strategy:
    """One loss, unchanged through all stages. Subclasses say what differs.

    Attributes:
        name: as on the command line and in the run folder.
        Options: dataclass of all options, at the paper's values.
        budgets: what `--budget smoke|laptop` changes in them.
        main: the nested optimizer whose options may be given without prefix.
        aliases: published names of options that are called otherwise here.
        marks: loss and test error at the end of each stage are kept in metrics.json.
        last_stage_only: columns of the history that mean something for a run in its last stage only.
        redraws: the loss changes between steps, so a step that moves nothing is no reason to stop.
        state: what a checkpoint must hold beside weights and optimizer: tensors with leading axis R.
    """

    name: ClassVar[str]
    Options: ClassVar[type]
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    main: ClassVar[str] = "lbfgs"
    aliases: ClassVar[Mapping[str, str]] = {}
    marks: ClassVar[bool] = False
    last_stage_only: ClassVar[Sequence[str]] = ()
    redraws: ClassVar[bool] = False

    def __init__(self, options: Any, objective: Objective, params: Sequence[Tensor], rows: Sequence[Row]) -> None:
        self.options, self.objective, self.params, self.rows = options, objective, list(params), list(rows)
        self.state: dict[str, Tensor] = {}
        self.stages = self.make_stages(options, [row.physical for row in rows])

    @property
    def group_size(self) -> int | None:
        """Runs that an optimizer should walk together."""
        return self.objective.group_size

    def make_stages(self, options: Any, targets: Sequence[float]) -> list[Stage]:
        """The stages in order; `targets` are the physical values that the rows end at."""
        raise NotImplementedError

    @classmethod
    def plan(cls, options: Any, keys: Sequence[RunKey]) -> list[Row]:
        """Rows for these runs; a run ends with the last stage (-1)."""
        return [Row(key, [(k, -1)]) for k, key in enumerate(keys)]

    @classmethod
    def set_epochs(cls, options: Any, epochs: int) -> None:
        """The published `--epochs`: calls of the optimizer's step."""
        raise NotImplementedError

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

    def trace(self, losses: Tensor) -> dict[str, Sequence[float]]:
        """Columns of a line that the history gets after every step, (R,) each, from the losses (R,) that the optimizer
        returned; no such lines for none.
        """
        return {}

    def columns(self) -> dict[str, Sequence[float]]:
        """More columns of the lines with losses and errors, (R,) each."""
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
