"""What one cell of the regime map is trained with, and the run folders that belong to it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pino.data import Samples
from pino.fields import Fields
from pino.files import UsageError
from pino.floors import floors
from pino.generate import resolve
from pino.hessian import Times
from pino.model import FNO2d
from pino.objective import Objective
from pino.record import Run, RunKey
from pino.sources import Source
from pino.strategies import STRATEGIES, curriculum
from pino.strategies.base import Row, Strategy, flatten

#: Arguments that may change between two starts of one run.
VOLATILE = ("device", "budget", "log_every", "hessian_every", "spectral", "block", "full_block", "ckpt_dir")
SYSTEM = "darcy"
FLOOR_POINTS = 65  # a side of the largest grid whose floors are computed


@dataclass(frozen=True)
class Settings:
    """All but contrast and seed of the runs of a command with one number of training samples.

    Attributes:
        n: training samples.
        title: of the runs in progress lines.
        pde_stride: of the residual's grid, in nodes of the data.
        weights: xy_loss and f_loss.
        network: arguments of `FNO2d`.
        block: samples that go through the network at a time, None: chosen by device and size; graph_block: the same for
            Hessian-vector products.
        checkpoints: folder of the finished Adam runs that alm, nncg and adam_lbfgs begin with, None: a stage of Adam.
    """

    source: Source
    n: int
    strategy: str
    options: Any
    save_path: Path
    title: str = ""
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    residual: str = "published"
    pde_stride: int = 7
    weights: tuple[float, float] = (5.0, 1.0)
    batch_size: int = 32
    network: dict[str, Any] = field(default_factory=dict)
    spectral: str = "dft"
    block: int | None = None
    graph_block: int | None = None
    checkpoints: Path | None = None
    budget: str = "paper"
    log_every: int = 1000
    hessian_every: Times = Times()
    checkpoint_seconds: float = 60.0
    save_model: bool = True
    force: bool = False
    wandb: str = "disabled"
    wandb_project: str = "pino"

    @property
    def label(self) -> str:
        """What a progress line calls this cell."""
        return f"{SYSTEM}/{self.strategy} {self.title}".strip()

    @property
    def wandb_group(self) -> str:
        """One group a map."""
        return f"{SYSTEM}-{self.strategy}"

    # Run folders ------------------------------------------------------------------------------------------------

    def run(self, contrast: float, seed: int) -> Run:
        """The run folder of one contrast and seed."""
        key = self.key(self.strategy, contrast, seed)
        config: dict[str, Any] = {
            "r": contrast, "n_samples": self.n, "seed": seed, "optimizer": self.strategy,
            "options": flatten(self.options), "data": {"train": self.source.identity("train", contrast, self.n),
                                                       "test": self.source.identity("test", contrast),
                                                       "test_num": self.source.tests},
            "data_sub": self.source.stride, "pde_sub": self.pde_stride, "residual": self.residual,
            "xy_loss": self.weights[0], "f_loss": self.weights[1], "batch_size": min(self.batch_size, self.n),
            "network": self.network, "warm_start": self.checkpoint_identity(contrast, seed),
            "precision": str(self.dtype).removeprefix("torch."), "spectral": self.spectral, "block": self.block,
            "full_block": self.graph_block, "ckpt_dir": None if self.checkpoints is None else str(self.checkpoints),
            "budget": self.budget, "log_every": self.log_every,
            "hessian_every": str(self.hessian_every), "device": str(self.device)}
        return Run(self.save_path, key, config, VOLATILE, "--outdir")

    def key(self, strategy: str, contrast: float, seed: int) -> RunKey:
        """What names a run of this n."""
        return RunKey("PINO", "PINO", SYSTEM, strategy, "r", contrast, "n", self.n, seed)

    def jobs(self, contrasts: Sequence[float], seeds: Sequence[int]) -> list[tuple[Settings, list[Run]]]:
        """Runs that one network is trained for, one each, or those on one chain of a curriculum; with their title."""
        runs = [self.run(contrast, seed) for seed in seeds for contrast in contrasts]
        jobs = []
        for row in self.plan([run.key for run in runs]):
            mine = sorted((runs[k] for k, _ in row.runs), key=lambda run: run.key.physical_value)
            values = "-".join(f"{run.key.physical_value:g}" for run in (mine[:1] + mine[-1:] * (len(mine) > 1)))
            jobs.append((replace(self, title=f"r_{values} n_{self.n} seed_{row.seed}"), mine))
        return jobs

    def plan(self, keys: Sequence[RunKey]) -> list[Row]:
        """The rows that train these runs."""
        return STRATEGIES[self.strategy].plan(self.options, keys)

    # What is trained --------------------------------------------------------------------------------------------

    def build(self, rows: Sequence[Row]) -> tuple[list[Tensor], Strategy]:
        """Initial weights of the row, each (1, ...), and the strategy that trains it."""
        row, = rows
        model = FNO2d(**self.network, seed=row.seed, spectral=self.spectral, dtype=self.dtype).to(self.device)
        params = [p.detach()[None].requires_grad_() for p in model.parameters()]
        if self.checkpoints is not None:
            with torch.no_grad():
                for p, loaded in zip(params, self.checkpoint(row.physical, row.seed), strict=True):
                    p[0] = loaded
        samples = self.samples(row.physical, None, row.physical)
        block = self.block or default_block(self.device, self.source.size, min(self.pde_stride, self.source.stride),
                                            self.network["width"])
        objective = Objective(model, *samples[:2], self.weights, block, self.graph_block or block,
                              *samples[2:])
        strategy = STRATEGIES[self.strategy](self.options, objective, params, rows, self.batch_size, self.samples,
                                             self.checkpoints is not None)
        return params, strategy

    def stage_contrasts(self, contrasts: Sequence[float]) -> list[float]:
        """Contrasts between which a curriculum moves on its way to these."""
        if not isinstance(self.options, curriculum.Options) or self.options.ramp != "r":
            return []
        return sorted({value for contrast in contrasts for value in self.options.values(contrast)} - {*contrasts})

    def samples(self, contrast: float, f: float | None, test_contrast: float
                ) -> tuple[Samples, Samples, np.ndarray | None, dict[str, float]]:
        """Training samples of a contrast (and another f), test samples, floors and baselines of the former.

        Floors are not known of the contrasts between. For benchmark files these are solved for here.
        """
        test, limits, noted = self.source.fields("test", test_contrast), None, {}
        if contrast == test_contrast or not self.source.benchmark:
            train = self.source.fields("train", contrast, self.n)
        else:
            train = resolve(self.source.fields("train", test_contrast, self.n), contrast, self.device)
        if contrast == test_contrast:
            limits, noted = self.floors(train)
            noted |= {"mean_predictor_error": mean_predictor_error(train, test)}
        if f is not None:  # u is linear in f; all that is known is relative
            train, test = (replace(fields, f=f, u=fields.u * (f / fields.f)) for fields in (train, test))
        like = (self.device, self.dtype)
        return (Samples(train, self.residual, self.pde_stride, *like),
                Samples(test, None, self.source.stride, *like), limits, noted)

    def floors(self, train: Fields) -> tuple[np.ndarray | None, dict[str, float]]:
        """Lower bounds of 5 d_i + p_i, and the means of d and p there.

        None where the two grids differ, and on fine grids, where they would take seconds a field.
        """
        if self.pde_stride != self.source.stride or train.u.shape[1] > FLOOR_POINTS:
            return None, {}
        found = floors(train, self.residual, self.pde_stride, *self.weights, self.n)
        return found.loss, {"floor_data_loss": float(found.d.mean()), "floor_pde_loss": float(found.p.mean())}

    def check_memory(self) -> None:
        """Raise UsageError where the histories of the optimizer cannot fit into the device's memory."""
        weights = number_of_weights(**self.network)
        vectors = STRATEGIES[self.strategy].vectors(self.options)
        need, there = vectors * weights * self.dtype.itemsize, memory(self.device)
        if need > there:
            raise UsageError(f"{self.strategy}: {vectors} vectors of {weights:,} weights take {need / 1e9:.3g} GB, "
                             f"{self.device} has {there / 1e9:.3g} GB free; lower --lbfgs_history or --nncg_rank, or "
                             f"take a smaller network (--preset, --modes, --width)")

    # Checkpoints of Adam ----------------------------------------------------------------------------------------

    def checkpoint_path(self, contrast: float, seed: int) -> Path:
        """model.pt of the Adam run of a cell."""
        return self.checkpoints / self.key("adam", contrast, seed).folder() / "model.pt"

    def checkpoint(self, contrast: float, seed: int) -> list[Tensor]:
        """Weights of the finished Adam run of a cell; the file is only read.

        Raises:
            UsageError: when there is none, or one of another network.
        """
        path = self.checkpoint_path(contrast, seed)
        if not Run(self.checkpoints, self.key("adam", contrast, seed), {}).is_done() or not path.exists():
            raise UsageError(f"--ckpt_dir {self.checkpoints}: no finished Adam run with weights in {path.parent}; make "
                             f"it with --optimizer adam --outdir, or leave --ckpt_dir out for a stage of Adam")
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            config, weights = saved["config"], saved["params"]
            network, data = config["network"], config["data"]
        except Exception as error:  # torch raises all sorts for what it cannot read
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"--ckpt_dir: {path} cannot be read ({reason})") from None
        if network != self.network:
            raise UsageError(f"--ckpt_dir: {path} is of another network: {network}, not {self.network}")
        mine = {"residual": self.residual, "pde_sub": self.pde_stride, "xy_loss": self.weights[0],
                "f_loss": self.weights[1]}
        other = [f"{name} {config.get(name)}, not {value}" for name, value in mine.items() if config.get(name) != value]
        if other:
            raise UsageError(f"--ckpt_dir: {path} minimised another loss: {', '.join(other)}")
        if data["train"] != self.source.identity("train", contrast, self.n):
            raise UsageError(f"--ckpt_dir: {path} was trained on other data: {data['train']}")
        return weights

    def checkpoint_identity(self, contrast: float, seed: int) -> dict[str, Any] | None:
        """What a run notes of the weights that it begins with."""
        if self.checkpoints is None:
            return None
        weights = self.checkpoint(contrast, seed)
        sums = [float(w.double().square().sum()) for w in weights]
        return {"strategy": "adam", "sum_of_squares": sum(sums)}


def number_of_weights(modes: int, width: int, head: Sequence[int], layers: int = 4) -> int:
    """Weights of an `FNO2d`, without making it."""
    return (4 * width + layers * (4 * (modes * width)**2 + width * (width + 1))
            + sum((before + 1) * after for before, after in pairwise((width, *head, 1))))


def memory(device: torch.device) -> int:
    """Bytes that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError):
        found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return 1024 * int(found[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def mean_predictor_error(train: Fields, test: Fields) -> float:
    """Mean relative error on the test samples of the mean training solution: what a network must beat."""
    mean = train.u.mean(0, dtype=np.float64)
    errors = np.linalg.norm(mean - test.u, axis=(1, 2)) / np.linalg.norm(test.u.astype(np.float64), axis=(1, 2))
    return float(errors.mean())


def default_block(device: torch.device, size: int, stride: int, width: int) -> int:
    """Samples that go through the network at a time: few enough for the cache of a CPU, the memory of a GPU."""
    numbers = 2**25 if device.type == "cuda" else 2**22
    return max(1, numbers // (((size - 1) // stride + 1) ** 2 * width))
