"""What the runs of one sweep are trained with, and the run folders that belong to them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from node.data import STATES
from node.files import UsageError
from node.hessian import Times
from node.model import MLP
from node.objective import Objective, Problem
from node.pendulum import count_samples
from node.record import Run, RunKey
from node.strategies import STRATEGIES
from node.strategies.base import Row, Strategy, flatten

#: Arguments that may change between two starts of one run.
VOLATILE = ("device", "budget", "log_every", "hessian_every")
SYSTEM = "pendulum"


@dataclass(frozen=True)
class Settings:
    """A sweep: everything but 1/b, horizon and seed is common to its runs.

    horizons: T by number of samples T/dt. strategy names the folder, kind the class. updates: policy for the updates
    of an epoch of Adam and SGD, "auto", "own", "grid" or a number. init: weights to start from, by run key, or None.
    """

    problem: Problem
    model: str
    strategy: str
    kind: str
    options: Any
    horizons: Mapping[int, float]
    save_path: Path
    named: Mapping[str, Any] = field(default_factory=dict)  # the published flags that name the strategy, for the record
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    hidden: tuple[int, ...] = (16, 16, 16)
    updates: str | int = "auto"
    init: Path | None = None
    budget: str = "paper"
    log_every: int = 100
    hessian_every: Times = Times()
    checkpoint_seconds: float = 60.0
    save_model: bool = True
    force: bool = False
    wandb: str = "disabled"
    wandb_project: str = "pinodes"

    @property
    def label(self) -> str:
        """What a progress line calls this sweep."""
        return f"{self.model}/{self.strategy}"

    @property
    def wandb_group(self) -> str:
        """One group a map."""
        return f"{self.model}-{self.strategy}"

    @property
    def folder(self) -> Path:
        """Where the maps of both models can live side by side."""
        return self.save_path / self.model.lower()

    def epoch(self, n: int) -> int:
        """Updates of an epoch of Adam or SGD, for a run with n samples.

        auto: one for each mini-batch of a trajectory of the test horizon, and at least one for each of the run's own;
        grid: as many as the longest trajectory of the sweep has mini-batches; own: as many as the run's own has.
        """
        p = self.problem
        if isinstance(self.updates, int):
            return self.updates
        if p.training == "rollout":  # no mini-batches
            return 1
        lengths = {"auto": [n, count_samples(p.test_horizon, p.dt)], "own": [n], "grid": self.horizons}
        return max(-(-(k - 1) // p.batch_size) for k in lengths[self.updates])

    def run(self, inv_b: float, n: int, seed: int) -> Run:
        """The run folder of one cell and seed."""
        key = RunKey("NeuralODE", self.model, SYSTEM, self.strategy, "inv_b", inv_b, "n", n, seed)
        problem = asdict(self.problem)
        config = {
            "inv_b": inv_b, "horizon": self.horizons[n], "seed": seed, **self.named,
            "physics_mode": problem.pop("mode"), "lamb": problem.pop("weight"), "loss_scale": problem.pop("scale"),
            "data_tolerance": problem.pop("tolerance"), **problem, "options": flatten(self.options),
            "hidden": list(self.hidden), "updates_per_epoch": self.epoch(n),
            "init": None if self.init is None else str(self.init),
            "precision": str(self.dtype).removeprefix("torch."), "budget": self.budget, "log_every": self.log_every,
            "hessian_every": str(self.hessian_every),
            "device": str(self.device),
        }
        return Run(self.folder, key, config, VOLATILE, flag="--out-dir")

    def plan(self, keys: Sequence[RunKey]) -> list[Row]:
        """The rows that train these runs."""
        return STRATEGIES[self.kind].plan(self.options, keys)

    def build(self, rows: Sequence[Row]) -> tuple[list[Tensor], Strategy]:
        """Initial weights of these rows, and the strategy that trains them."""
        p = self.problem
        params = list(MLP([row.seed for row in rows], p.size, self.hidden, self.dtype, self.device).parameters())
        if self.init is not None:
            with torch.no_grad():
                for r, row in enumerate(rows):
                    for w, loaded in zip(params, self.initial_weights(row.key), strict=True):
                        w[r] = loaded
        objective = Objective(p, [row.physical for row in rows],
                              [self.horizons[int(row.key.data_value)] for row in rows], self.dtype, self.device)
        epoch = [self.epoch(int(row.key.data_value)) for row in rows]
        return params, STRATEGIES[self.kind](self.options, objective, params, rows, epoch)

    def initial_weights(self, key: RunKey) -> list[Tensor]:
        """Weights to start from: those of the file `init`, or of the run of the same cell and seed below it.

        Raises:
            UsageError: when there are none, or of another size.
        """
        cell = Path(*key.folder().parts[-3:])
        found = [self.init] if self.init.is_file() else sorted(self.init.rglob(str(cell / "model.pt")))
        if len(found) != 1:
            raise UsageError(f"--alm-init-ckpt {self.init}: one model.pt of the run {cell} is wanted there, found "
                             f"{len(found)}")
        try:
            loaded = torch.load(found[0], map_location="cpu", weights_only=True)["params"]
            sizes = [tuple(w.shape) for w in loaded]
        except Exception as error:  # torch raises all sorts for what it cannot read
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"--alm-init-ckpt {found[0]}: not a model.pt of this program ({reason})") from None
        wanted = [tuple(p.shape[1:]) for p in MLP([0], STATES[self.problem.state], self.hidden).parameters()]
        if sizes != wanted:
            raise UsageError(f"--alm-init-ckpt {found[0]}: weights of another network")
        return loaded

