"""What the runs of one learning rate and one number of training images are trained with, and their run folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .data import Dataset, Images
from .hessian import Times
from .model import ResNet18, build
from .record import Run, RunKey

#: Arguments that may change between two starts of one run.
VOLATILE = ("device", "budget", "log_every", "hessian_every")


@dataclass(frozen=True)
class Recording:
    """Step lengths: once the loss of an epoch is at most `loss`, those of `steps` more updates are recorded."""

    loss: float
    steps: int


@dataclass(frozen=True)
class Data:
    """Images on the CPU, and what tells them from others."""

    dataset: Dataset
    train: Images  # in balanced order: a subset is a prefix
    test: Images
    identity: dict[str, int]  # numbers of images and their checksums


@dataclass(frozen=True)
class Settings:
    """One cell: all but the seed of the weights, of the order of the images and of their augmentation.

    `epochs` is the number of passes over the images; with `recording` the largest number before it begins.
    """

    data: Data
    n: int
    model: str
    init: str
    pretrain: bool
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    augment: str
    recording: Recording | None
    save_path: Path
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    mixed_precision: str = "none"
    hessian_every: Times = Times()
    budget: str = "paper"
    log_every: int = 1
    checkpoint_seconds: float = 60.0
    save_model: bool = True
    force: bool = False
    wandb: str = "disabled"
    wandb_project: str = "cnn"

    @property
    def strategy(self) -> str:
        """As in the run folder."""
        return "trajectory" if self.recording else "sgd"

    @property
    def batch(self) -> int:
        """Images an update: all of them where there are fewer than a batch."""
        return min(self.batch_size, self.n)

    @property
    def label(self) -> str:
        """What a progress line calls this cell."""
        return f"{self.data.dataset.system}/{self.strategy} lr_{self.lr:g} n_{self.n}"

    @property
    def wandb_group(self) -> str:
        """One group a map."""
        return f"{self.data.dataset.system}-{self.model}-{self.strategy}"

    def build(self, seed: int) -> ResNet18:
        """The network with its initial weights."""
        model = build(self.model, self.data.dataset.classes, seed, self.init, self.pretrain)
        return model.to(self.device, self.dtype, memory_format=torch.channels_last)

    def load(self) -> tuple[Images, Images]:
        """Training and test images on the device."""
        return self.data.train.select(slice(self.n)).to(self.device), self.data.test.to(self.device)

    def runs(self, seeds: Sequence[int]) -> list[Run]:
        """The run folders of these seeds."""
        return [self.run(seed) for seed in seeds]

    def run(self, seed: int) -> Run:
        """The run folder of one seed."""
        key = RunKey("CNN", self.model, self.data.dataset.system, self.strategy, "lr", self.lr, "n", self.n, seed)
        config: dict[str, Any] = {
            "model": self.model, "dataset": self.data.dataset.name, "n_samples": self.n, "epochs": self.epochs,
            "batch_size": self.batch, "lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay,
            "schedule": self.schedule, "augment": self.augment, "init": self.init, "pretrain": self.pretrain,
            "seed": seed, "precision": str(self.dtype).removeprefix("torch."), "mixed_precision": self.mixed_precision,
            "data": self.data.identity,
            "hessian_every": str(self.hessian_every), "budget": self.budget, "log_every": self.log_every,
            "device": str(self.device),
        }
        if self.recording:
            config |= {"loss": self.recording.loss, "steps": self.recording.steps}
        return Run(self.save_path / self.model.lower(), key, config, VOLATILE)
