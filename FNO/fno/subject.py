"""A finished FNO as the landscape tools (diagnosis.py) see it: weights, training loss, test error, hidden layers.

Hessian and landscape are those of the loss on a probe: evenly spaced rows of the training file, which hold forcings of
every sparsity in equal shares and do not depend on n, on the seed or on what was trained before. It is the loss that
was minimised (`--loss_style`), for which the output bias b alone gives, whatever the weights,

    e_b^T H e_b = 2 N^2  (sum)    or    2  (mean),        so that    lambda_max >= 2 N^2  or  2

Data files are looked for where train.py finds them, and must be those that the run was trained on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .arguments import locate
from .configs import Config, find_yaml, read, resolve
from .data import DataFile, Samples, inspect, load
from .files import UsageError, strict
from .hessian import Gradient, gradients_of
from .objective import PROBE, predict, probe, sample_losses, spread, training_loss
from .record import Run
from .saved import read_weights, reopen
from .settings import Files, Settings
from .systems import SYSTEMS, file_name

PROBED = ("hessian", "landscape")  # tools that take it
PATH = 1024  # samples on which losses and errors along a path are taken, at most
POINTS = 16  # a side, to which hidden layers are averaged
WEIGHTS = {"initial": "model_init.pt", "final": "model.pt", "best": "model_best.pt"}
LOSS_NAMES = {"sum": "sum of squares over the grid, mean over samples", "mean": "mean of squares over grid and samples",
              "relative": "relative L2 error"}


def add_flags(parser: argparse.ArgumentParser, tool: str) -> None:
    """Where the data are and, of the tools that look at the training loss of one run, how many samples it is of."""
    add = parser.add_argument_group("data").add_argument
    add("--data_dir", metavar="DIR", help="where the run's data files are, instead of the folders in its configuration "
        "(which are relative to FNO/)")
    add("--yaml_config", metavar="FILE", help="of a configuration whose data files have names of their own")
    if tool in PROBED:
        add("--probe", type=int, metavar="B", help=f"samples of the training file that the loss is taken on, evenly "
            f"spaced: balanced, and the same whatever n (default: {PROBE}, or all)")


def open_run(folder: Path, args: argparse.Namespace) -> tuple[Settings, Run]:
    """Settings and run folder of a finished run, from its config.json and the data files; on the CPU.

    Raises:
        UsageError: when there is no finished FNO run, it is not what config.json says, or the data are others.
    """
    def make(config: dict[str, Any], _: dict[str, Any], path: Path) -> tuple[Settings, Run]:
        settings = rebuild(config, path, args)
        return settings, settings.run(config["seed"])

    return reopen(folder, "FNO", make)


def rebuild(config: dict[str, Any], path: Path, args: argparse.Namespace) -> Settings:
    """The settings of a run from its config.json, with the data files that it was trained on."""
    system, limits = SYSTEMS[config["system"]], config["range"]
    if args.yaml_config:
        keys = read(find_yaml(args.yaml_config), config["config"])
        paths = {split: keys[f"{split}_path"] for split in config["data"]}
    else:  # as in config/*.yaml
        paths = {split: f"{system.folder}/{file_name(system, split, *limits)}" for split in config["data"]}
    files = {split: find(locate(name, args.data_dir), split, config) for split, name in paths.items()}
    known = {field.name: config[field.name] for field in fields(Config) if field.name in config}
    known |= {f"{split}_path": str(file.path) for split, file in files.items()} | {"scales_path": "-"}
    return Settings(
        name=config["config"], config=resolve(known, f"{path}/config.json"),
        files=Files(**files, scales=np.array(config["scales"])), save_path=Path(*path.parts[:-6]),
        dtype=getattr(torch, config["precision"]), spectral=config["spectral"])


def find(path: Path, split: str, config: dict[str, Any]) -> DataFile:
    """The data file of a run.

    Raises:
        UsageError: when there is none, or it is not the one that config.json describes.
    """
    try:
        file = inspect(path, SYSTEMS[config["system"]], tuple(config["range"]))
    except UsageError as error:
        raise UsageError(f"{error} (--data_dir and --yaml_config say where the data of a run are)") from None
    now, before = strict(file.identity()), config["data"][split]
    if now != before:
        changes = [f"{name} {before.get(name, '(absent)')} -> {now.get(name, '(absent)')}" for name in before | now
                   if before.get(name) != now.get(name)]
        raise UsageError(f"--data_dir: {path} holds other data than the run was trained on: {', '.join(changes)}")
    return file


def open_subject(folder: Path, args: argparse.Namespace, dtype: torch.dtype | None = None) -> FNOSubject:
    """The finished run in a folder, on `args.device`, in `dtype` (None: that of the training).

    Raises:
        UsageError: when there is no finished FNO run, it is not what config.json says, its data are not there, or
            --probe is not from 1 to their number.
    """
    settings, run = open_run(folder, args)
    rows = settings.files.train.rows
    probed = getattr(args, "probe", None)
    probed = min(PROBE, rows) if probed is None else probed
    if not 1 <= probed <= rows:
        raise UsageError(f"--probe must be from 1 to {rows}, the rows of {settings.files.train.path}; got {probed}")
    return FNOSubject(replace(settings, device=args.device, dtype=dtype or settings.dtype), run, probed)


class FNOSubject:
    """One run. Attributes and methods are those of `diagnosis.Subject`."""

    states = tuple(WEIGHTS)
    error_name = "relative L2 test error"
    chunk = batch = 1  # one network is work enough

    def __init__(self, settings: Settings, run: Run, probed: int) -> None:
        self.settings, self.run, self.probed = settings, run, probed
        config, size = settings.config, settings.files.train.size
        self.title = (f"FNO {config.size}, {settings.system.name}, {settings.system.physical} = {settings.physical}, "
                      f"n = {settings.n}, {config.optimizer}, seed {run.key.seed}")
        same = ("system", "range", "n", "size", "mode_cut", "embed_cut", "fc_cut", "n_layers", "loss_style", "data",
                "scales", "precision")
        self.task: dict[str, Any] = {name: run.config[name] for name in same}
        self.model = settings.build(run.key.seed)
        self.names = [name for name, _ in self.model.named_parameters()]
        # output channels: the last axis of spectral weights, the first of linear ones
        self.filters = [{5: 4, 2: 0}.get(p.ndim) for p in self.model.parameters()]
        self.loss_name = f"training loss ({LOSS_NAMES[config.loss_style]})"
        self.floor = {"sum": 2.0 * size**2, "mean": 2.0}.get(config.loss_style)
        self.restrictions = {"without_output_bias": [name != "output.bias" for name in self.names]}

    @cached_property
    def data(self) -> str:
        """What loss and Hessian are taken on."""
        _, unseen = self._probe
        return f"a probe of {self.probed} samples of the training file, evenly spaced" + (
            f"; {unseen} of them are not among the {self.settings.n} that the run was trained on" if unseen else "")

    @cached_property
    def _probe(self) -> tuple[Samples, int]:
        return probe(self.settings, self.probed)

    @cached_property
    def samples(self) -> Samples:
        """Samples that the training loss is taken on."""
        return self._probe[0]

    @cached_property
    def training(self) -> Samples:
        """All samples that the run was trained on."""
        return load(self.settings.files.train, self.settings.files.scales, self.settings.config.subsample,
                    self.settings.device, self.settings.dtype)

    @cached_property
    def test(self) -> Samples:
        """All test samples."""
        return load(self.settings.files.test, self.settings.files.scales, 1, self.settings.device, self.settings.dtype)

    def weights(self, state: str) -> list[Tensor]:
        """Initial, last or best weights, (1, ...) each.

        Raises:
            UsageError: when there are none, or of another network.
        """
        path = self.run.path / WEIGHTS[state]
        found = read_weights(path).get("model", {})
        if {name: p.shape for name, p in found.items()} != {name: p.shape for name, p in self.model.named_parameters()}:
            raise UsageError(f"{path} holds the weights of another network than config.json describes")
        return [found[name][None].to(self.settings.device, self.settings.dtype) for name in self.names]

    def gradients(self, params: Sequence[Tensor]) -> Callable[[], Iterable[Gradient]]:
        """Gradients of the loss on the probe with their graphs, at leaves that require them."""
        return gradients_of(training_loss(self.settings, self.model, params, self.samples), params)

    def losses(self, params: Sequence[Tensor]) -> Tensor:
        """Losses of k networks on the probe, (k,) float64 on the CPU."""
        return self._means(params, self.samples)[:, 0]

    def errors(self, params: Sequence[Tensor]) -> Tensor:
        """Mean relative L2 errors of k networks on the test samples, (k,) float64 on the CPU."""
        return self._means(params, self.test)[:, 1]

    @torch.no_grad()
    def _means(self, params: Sequence[Tensor], samples: Samples) -> Tensor:
        """Mean loss and mean error of k networks, (k, 2), float64 on the CPU."""
        size = min(self.settings.config.valid_batch_size, self.settings.block)  # of the evaluation in training
        total = torch.zeros(len(params[0]), 2, dtype=torch.float64, device=self.settings.device)
        for k in range(len(total)):
            one = [p[k : k + 1] for p in params]
            for rows in torch.arange(len(samples), device=total.device).split(size):
                f, coefficients, u = samples.batch(rows)
                found = sample_losses(predict(self.model, one, f, coefficients), u, self.settings.config.loss_style)
                total[k] += torch.stack([column.sum() for column in found])
        return (total / len(samples)).cpu()

    def loss_and_gradients(self, params: Sequence[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        """Losses (k,) and their gradients (k, ...) on mini-batch `step` of the run's samples, shuffled every epoch."""
        epoch, number = divmod(step, math.ceil(self.settings.n / self.settings.batch))
        order = torch.randperm(self.settings.n, generator=torch.Generator().manual_seed(epoch))
        batch = order.split(self.settings.batch)[number].to(self.settings.device)
        moving = [p.detach().requires_grad_() for p in params]
        losses = torch.zeros(len(moving[0]), dtype=self.settings.dtype, device=self.settings.device)
        for k in range(len(losses)):
            one = [p[k : k + 1] for p in moving]
            for rows in batch.split(self.settings.block):
                f, coefficients, u = self.training.batch(rows)
                found, _ = sample_losses(predict(self.model, one, f, coefficients), u, self.settings.config.loss_style)
                loss = found.sum() / len(batch)
                loss.backward()
                losses[k] += loss.detach()
        return losses, [p.grad for p in moving]

    @torch.no_grad()
    def features(self, params: Sequence[Tensor], samples: int) -> dict[str, Tensor]:
        """Layers of one network at up to `samples` evenly spaced test samples, (N, d) each.

        The Fourier layers (before the gelu) and the last hidden one are averaged to POINTS x POINTS grid points; the
        output has all.
        """
        layers = {f"fourier {k}": layer for k, layer in enumerate(self.model.spectral_layers, 1)}
        layers["hidden"] = self.model.hidden
        found: dict[str, list[Tensor]] = {name: [] for name in (*layers, "output")}

        def note(name: str) -> Callable[..., None]:
            def hook(layer: torch.nn.Module, inputs: Any, z: Tensor) -> None:  # z (y, x, B, channel)
                found[name].append(adaptive_avg_pool2d(z.permute(2, 3, 0, 1), min(POINTS, len(z))).flatten(1))
            return hook

        at, _ = spread(self.settings, self.settings.files.test, min(samples, self.settings.files.test.rows))
        hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
        try:
            for rows in torch.arange(len(at), device=self.settings.device).split(self.settings.block):
                f, coefficients, _ = at.batch(rows)
                found["output"].append(predict(self.model, params, f, coefficients).flatten(1))
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts) for name, parts in found.items()}

    def along_path(self) -> FNOSubject:
        """The same on samples of the run's own training set and of the test set, PATH of each at most."""
        return OnPath(self.settings, self.run, self.probed)


class OnPath(FNOSubject):
    """A run whose loss and error are taken on PATH samples at most of its own training set and of the test set."""

    @cached_property
    def data(self) -> str:
        """What loss and error are taken on."""
        n, tests = self.settings.n, self.settings.files.test.rows
        return f"{min(PATH, n)} of the {n} training samples and {min(PATH, tests)} test samples"

    @cached_property
    def samples(self) -> Samples:
        """Samples that the training loss is taken on."""
        s = self.settings
        return spread(s, s.files.train, min(PATH, s.n), s.config.subsample)[0]

    @cached_property
    def test(self) -> Samples:
        """Samples that the test error is taken on."""
        return spread(self.settings, self.settings.files.test, min(PATH, self.settings.files.test.rows))[0]
