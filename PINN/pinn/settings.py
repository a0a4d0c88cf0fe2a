"""What one row of a regime map is trained with, and the run folders that belong to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pinn.data import Grid
from pinn.hessian import Times
from pinn.model import MLP
from pinn.objective import Objective
from pinn.pdes import System
from pinn.record import Run, RunKey
from pinn.strategies import STRATEGIES
from pinn.strategies.base import Row, Strategy, flatten

#: Arguments that may change between two starts of one run.
VOLATILE = ("device", "budget", "log_every", "hessian_every")


@dataclass(frozen=True)
class Settings:
    """One row of a regime map: everything but physical value and seed is common to its runs.

    `data_seed` None means that every run draws its collocation points by its own seed.
    """

    system: System
    others: dict[str, float]
    n: int
    strategy: str
    options: Any
    save_path: Path
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    hidden: tuple[int, ...] = (50, 50, 50, 50)
    grid: tuple[int, int] = (257, 101)
    data_seed: int | None = 0
    loss: str = "mse"
    weight: float = 1.0
    periodic_slope: bool = True
    budget: str = "paper"
    log_every: int = 100
    hessian_every: Times = Times()
    checkpoint_seconds: float = 60.0
    save_model: bool = True
    save_points: bool = False
    force: bool = False
    wandb: str = "disabled"
    wandb_project: str = "pinns"

    @property
    def label(self) -> str:
        """What a progress line calls this row."""
        return f"{self.system.name}/{self.strategy} n_{self.n}"

    @property
    def wandb_group(self) -> str:
        """One group a map."""
        return f"{self.system.name}-{self.strategy}"

    def runs(self, physical: Sequence[float], seeds: Sequence[int]) -> list[Run]:
        """The run folders of every (physical value, seed)."""
        return [self.run(value, seed) for value in physical for seed in seeds]

    def run(self, physical: float, seed: int) -> Run:
        """The run folder of one cell and seed."""
        key = RunKey("PINN", "PINN", self.system.name, self.strategy, self.system.physical, physical, "n", self.n, seed)
        config = {
            "pde": self.system.name, "pde_params": {**self.others, self.system.physical: physical},
            "opt": self.strategy, "opt_params": flatten(self.options), "num_res": self.n, "num_x": self.grid[0],
            "num_t": self.grid[1], "hidden": list(self.hidden), "initial_seed": seed,
            "set_idx": seed if self.data_seed is None else self.data_seed, "loss": self.loss, "L": self.weight,
            "periodic_slope": self.periodic_slope, "precision": str(self.dtype).removeprefix("torch."),
            "budget": self.budget, "log_every": self.log_every,
            "hessian_every": str(self.hessian_every), "device": str(self.device),
        }
        return Run(self.save_path, key, config, VOLATILE)

    def plan(self, keys: Sequence[RunKey]) -> list[Row]:
        """The rows that train these runs."""
        return STRATEGIES[self.strategy].plan(self.options, keys)

    def build(self, rows: Sequence[Row]) -> tuple[list[Tensor], Strategy]:
        """Initial weights of these rows, and the strategy that trains them."""
        params = list(MLP([row.seed for row in rows], self.hidden, self.dtype, self.device).parameters())
        return params, STRATEGIES[self.strategy](self.options, self.objective(rows), params, rows)

    def objective(self, rows: Sequence[Row]) -> Objective:
        """The soft-constrained loss of these rows."""
        seeds = [row.seed if self.data_seed is None else self.data_seed for row in rows]
        objective = Objective(
            self.system, [row.physical for row in rows], self.others, self.n, seeds,
            Grid(self.system.x_range, *self.grid), loss=self.loss, weight=self.weight,
            periodic_slope=self.periodic_slope, dtype=self.dtype, device=self.device)
        objective.save_points = self.save_points
        return objective
