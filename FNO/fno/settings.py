"""What one cell of a regime map is trained with, and its run folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .configs import Config, epochs
from .data import DataFile, Samples, load
from .hessian import Times
from .model import FNO2d
from .record import Run, RunKey
from .systems import SYSTEMS, System

#: Arguments that may change between two starts of one run.
VOLATILE = ("device", "budget", "log_every", "hessian_every", "processes", "spectral")


@dataclass(frozen=True)
class Files:
    """The data of a configuration."""

    train: DataFile
    val: DataFile
    test: DataFile
    scales: np.ndarray


@dataclass(frozen=True)
class Settings:
    """One cell of a regime map: all but the seed of the weights and of the order of the samples."""

    name: str
    config: Config
    files: Files
    save_path: Path
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    spectral: str = "dft"
    budget: str = "paper"
    log_every: int = 1
    hessian_every: Times = Times()
    checkpoint_seconds: float = 60.0
    save_model: bool = True
    force: bool = False
    wandb: str = "disabled"
    wandb_project: str = "fno"
    processes: int = 1

    @property
    def system(self) -> System:
        """The physical system."""
        return SYSTEMS[self.config.system]

    @property
    def n(self) -> int:
        """Training samples."""
        return self.files.train.rows // self.config.subsample

    @property
    def batch(self) -> int:
        """Samples an update: all of them where there are fewer than a batch."""
        return min(self.config.batch_size, self.n)

    @property
    def epochs(self) -> int:
        """Passes over the training samples."""
        chosen = self.config.max_epochs
        return epochs(self.n, self.budget) if chosen == "auto" else int(chosen)

    @property
    def val_every(self) -> int:
        """Epochs between validations; auto: as many samples are trained on between two as one takes."""
        chosen = self.config.val_every
        return -(-(self.files.val.rows // self.config.val_subsample) // self.n) if chosen == "auto" else int(chosen)

    @property
    def block(self) -> int:
        """Samples that go through the network at a time.

        On a CPU a million numbers a field, which was the fastest or close to it; on a GPU few enough for its memory.
        """
        numbers = 2**27 if self.device.type == "cuda" else 2**20
        return max(1, numbers // (self.files.train.size**2 * self.config.embed_cut))

    @property
    def physical(self) -> str:
        """The range as the value of the physical axis: 1-2.5."""
        return "-".join(f"{limit:g}" for limit in self.config.range)

    @property
    def label(self) -> str:
        """What a progress line calls this cell."""
        return f"{self.system.name}/{self.config.optimizer} {self.system.physical}_{self.physical} n_{self.n}"

    @property
    def wandb_group(self) -> str:
        """One group a map."""
        return f"{self.system.name}-{self.config.size}-{self.config.optimizer}"

    def build(self, seed: int) -> FNO2d:
        """The network with its initial weights."""
        config = self.config
        model = FNO2d(len(self.system.coefficients), config.mode_cut, config.embed_cut,
                      config.embed_cut * config.fc_cut, config.n_layers, seed, self.spectral, self.dtype)
        return model.to(self.device)

    def load(self) -> tuple[Samples, Samples, Samples]:
        """Training, validation and test samples on the device."""
        strides = ((self.files.train, self.config.subsample), (self.files.val, self.config.val_subsample),
                   (self.files.test, 1))
        train, val, test = (load(file, self.files.scales, stride, self.device, self.dtype) for file, stride in strides)
        return train, val, test

    def runs(self, seeds: Sequence[int]) -> list[Run]:
        """The run folders of these seeds."""
        return [self.run(seed) for seed in seeds]

    def run(self, seed: int) -> Run:
        """The run folder of one seed."""
        key = RunKey("FNO", "FNO", self.system.name, self.config.optimizer, self.system.physical, self.physical, "n",
                     self.n, seed)
        paths = ("train_path", "val_path", "test_path", "scales_path")
        config: dict[str, Any] = {key: value for key, value in asdict(self.config).items() if key not in paths}
        config |= {"config": self.name, "n": self.n, "seed": seed, "batch_size": self.batch, "max_epochs": self.epochs,
                   "val_every": self.val_every, "precision": str(self.dtype).removeprefix("torch."),
                   "data": {name: getattr(self.files, name).identity() for name in ("train", "val", "test")},
                   "scales": self.files.scales.tolist(), "spectral": self.spectral, "budget": self.budget,
                   "log_every": self.log_every, "hessian_every": str(self.hessian_every), "device": str(self.device),
                   "processes": self.processes}
        return Run(self.save_path / f"fno_{self.config.size}", key, config, VOLATILE, "--root_dir")
