"""A finished PINO as the landscape tools (diagnosis.py) see it: weights, training loss, test error, Fourier layers.

The loss is xy_loss d + f_loss p of metrics.json (5 d + p), whatever the strategy minimised, over all training samples,
a block of them at a time where they do not fit; the error is the mean over all test samples. Networks are evaluated one
after another.

Filters: the weights that make one output channel. In a spectral weight (2m, m, width, 2, width) they are all modes,
input channels, real and imaginary parts at one place of the last axis; in a linear layer (out, in) a row.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pino.arguments import MODULE
from pino.data import Samples
from pino.files import UsageError
from pino.hessian import Gradient, gradients_of
from pino.model import FNO2d
from pino.objective import Objective
from pino.record import Run
from pino.saved import read_weights, reopen
from pino.settings import Settings, default_block
from pino.sources import Source
from pino.store import Recipe, find
from pino.strategies import STRATEGIES
from pino.strategies.base import set_option

FIELD_NUMBERS = 2**16  # of a layer's field that are compared between networks, at most: it is thinned out above
#: Numbers in a layer's fields of all samples, times vectors, up to which batches of vectors pay: on a CPU, on a GPU.
CHUNK_NUMBERS = 2**18, 2**25
MOST_VECTORS = 16
SPECTRAL_OUT = 4  # axis of the output channels in a spectral weight


def add_flags(parser: argparse.ArgumentParser, tool: str) -> None:
    """Where the data of the runs are."""
    parser.add_argument("--data_dir", metavar="DIR", help="folder of the data files that the runs were trained on "
                        "(PINO_DATA_DIR, or PINO/data)")
    parser.add_argument("--piececonst_dir", metavar="DIR", help="the same of runs on benchmark files "
                        "(PINO_PIECECONST_DIR)")


def open_subject(folder: Path, args: argparse.Namespace, dtype: torch.dtype | None = None) -> PINOSubject:
    """The finished run in a folder, on `args.device`, in `dtype` (None: that of the training).

    Raises:
        UsageError: when there is no finished PINO run, it is not what config.json says, or its data are not there.
    """
    settings, run = open_run(folder, args.data_dir, args.piececonst_dir)
    return PINOSubject(replace(settings, device=args.device, dtype=dtype or settings.dtype), run)


def open_run(folder: Path, data_dir: str | None, benchmark_dir: str | None) -> tuple[Settings, Run]:
    """Settings and run folder of a finished run, from its config.json; on the CPU, without `checkpoints`.

    Args:
        data_dir, benchmark_dir: --data_dir and --piececonst_dir, None where they are not given.

    Raises:
        UsageError: when there is no finished PINO run, or it is not what config.json says.
    """
    def make(config: dict[str, Any], _: dict[str, Any], path: Path) -> tuple[Settings, Run]:
        settings = rebuild(config, find_source(config, data_dir, benchmark_dir), path)
        run = settings.run(config["r"], config["seed"])
        run.config |= {name: config[name] for name in ("warm_start", "ckpt_dir")}  # for initial weights only
        return settings, run

    return reopen(folder, "PINO", make)


def rebuild(config: dict[str, Any], source: Source, path: Path) -> Settings:
    """Settings from the config.json of a run folder, without `checkpoints`."""
    strategy = STRATEGIES[config["optimizer"]]
    options = strategy.Options()
    for name, value in config["options"].items():
        set_option(options, name, value, strategy.main, f"{path}/config.json: options")
    return Settings(
        source=source, n=config["n_samples"], strategy=strategy.name, options=options, save_path=Path(*path.parts[:-5]),
        dtype=getattr(torch, config["precision"]), residual=config["residual"], pde_stride=config["pde_sub"],
        weights=(config["xy_loss"], config["f_loss"]), batch_size=config["batch_size"], network=config["network"],
        spectral=config["spectral"], block=config["block"], graph_block=config["full_block"])


def find_source(config: dict[str, Any], data_dir: str | None, benchmark_dir: str | None) -> Source:
    """The data of a config.json, in the folders of the training by default; they are read.

    Raises:
        UsageError: naming the flag, when they are not there, cannot be read, or are not those of the training.
    """
    noted, tests = config["data"]["train"], config["data"]["test_num"]
    if "file" in noted:
        flag, folder = "--piececonst_dir", benchmark_dir or os.environ.get("PINO_PIECECONST_DIR")
        recipe = Recipe(size=noted["N"], stride=noted["sub"])
        if not folder:
            raise UsageError(f"{flag} must name the folder of the benchmark file {noted['file']}, on which the run was "
                             f"trained")
    else:
        flag, folder = "--data_dir", data_dir or os.environ.get("PINO_DATA_DIR") or MODULE / "data"
        recipe = Recipe(size=noted["N"], r=noted["r"], f=noted["f"], tau=noted["tau"], alpha=noted["alpha"],
                        low=noted["a_low"], grf=noted["grf"], stride=noted["sub"], seed=noted["seed"], tol=noted["tol"])
    source = Source(recipe, Path(folder).absolute(), tests, "file" in noted)
    for split, count in (("train", config["n_samples"]), ("test", tests)):
        wanted = replace(recipe, split=split)
        if not source.benchmark and find(wanted, count, source.folder) is None:
            raise UsageError(f"{flag} {folder} must hold the data of the run, but no finished {wanted.stem('*')}.h5 "
                             f"there has its arguments and {count} samples")
        try:
            fields = source.fields(split, config["r"], count)
        except UsageError as error:
            raise UsageError(f"{flag} {folder}: {error}") from None
        if source.benchmark and dict(fields.identity) != config["data"][split]:
            raise UsageError(f"{flag} {folder} holds other {split} fields than the run was trained with")
    return source


class PINOSubject:
    """One run. Attributes and methods are those of `diagnosis.Subject`."""

    states = ("initial", "final")
    loss_name, error_name = "training loss", "relative L2 test error"
    floor, restrictions = None, {}
    batch = 1

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.run = settings, run
        key, config = run.key, run.config
        self.trained_in = getattr(torch, config["precision"])
        self.title = f"PINO, Darcy flow, r = {key.physical_value:g}, n = {settings.n}, {key.strategy}, seed {key.seed}"
        same = ("r", "n_samples", "data", "data_sub", "pde_sub", "residual", "xy_loss", "f_loss", "network",
                "precision")
        self.task: dict[str, Any] = {name: config[name] for name in same}
        self.data = f"all {settings.n} training samples"
        self.fields = [settings.source.fields(split, key.physical_value, count)
                       for split, count in (("train", settings.n), ("test", settings.source.tests))]
        model = FNO2d(**settings.network, seed=key.seed, spectral=settings.spectral, dtype=self.trained_in)
        self.initial = [p.detach()[None] for p in model.parameters()]
        self.names = [name for name, _ in model.named_parameters()]
        self.filters = [{1: None, 2: 0}.get(p.dim(), SPECTRAL_OUT) for p in model.parameters()]
        self.model = model.to(settings.device)
        points = (settings.source.size - 1) // settings.source.stride + 1
        numbers = settings.n * points**2 * settings.network["width"]
        self.chunk = max(1, min(MOST_VECTORS, CHUNK_NUMBERS[settings.device.type == "cuda"] // numbers))

    @cached_property
    def objective(self) -> Objective:
        """The loss on the run's samples, as it was trained."""
        s, (train, test) = self.settings, self.fields
        like = (s.device, s.dtype)
        block = s.block or default_block(s.device, s.source.size, min(s.pde_stride, s.source.stride),
                                         s.network["width"])
        return Objective(self.model, Samples(train, s.residual, s.pde_stride, *like),
                         Samples(test, None, s.source.stride, *like), s.weights, block, s.graph_block or block)

    def weights(self, state: str) -> list[Tensor]:
        """Weights that the training began with, or final ones from model.pt: (1, ...) each.

        Raises:
            UsageError: when there are none, or of another network.
        """
        path = self.run.path / "model.pt"
        found = self.initial
        if state == "final":
            found = [p[None] for p in read_weights(path).get("params", [])]
            if [p.shape for p in found] != [p.shape for p in self.initial]:
                raise UsageError(f"{path} holds the weights of another network than config.json describes")
        elif self.run.config["warm_start"] is not None:
            found = self.checkpoint()
        # as in training, they are rounded to its precision first
        return [p.detach().to(self.trained_in).to(self.settings.device, self.settings.dtype) for p in found]

    def checkpoint(self) -> list[Tensor]:
        """Weights of the finished Adam run that this one began with.

        Raises:
            UsageError: when they are gone, or others than then.
        """
        key = self.run.key
        folder = self.run.config["ckpt_dir"]
        there = replace(self.settings, checkpoints=Path(folder))
        try:
            same = there.checkpoint_identity(key.physical_value, key.seed) == self.run.config["warm_start"]
        except UsageError:
            same = False
        if not same:
            raise UsageError(f"RUN_FOLDER {self.run.path}: the weights of the Adam run below {folder} that it began "
                             f"with are gone or have changed; the final ones are there (--at final)")
        return [p[None] for p in there.checkpoint(key.physical_value, key.seed)]

    def gradients(self, params: Sequence[Tensor]) -> Callable[[], Iterable[Gradient]]:
        """The gradient of the training loss at leaves that require it, with its graph: computed once, or, where the
        samples do not fit into one block, those of the blocks one after another for every product.
        """
        return gradients_of(self.objective.training_losses(params, torch.arange(1)), params)

    def losses(self, params: Sequence[Tensor]) -> Tensor:
        """Training losses of k networks, (k,) float64 on the CPU, as in metrics.json."""
        o = self.objective
        return torch.stack([o.penalty(*o.all_terms(one), o.all).mean() for one in each(params)]).cpu()

    def errors(self, params: Sequence[Tensor]) -> Tensor:
        """Mean relative L2 test errors of k networks, (k,) float64 on the CPU, as in metrics.json."""
        return torch.stack([self.objective.test_errors(one).mean() for one in each(params)]).cpu()

    def loss_and_gradients(self, params: Sequence[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        """Training losses (k,) and their gradients (k, ...), over all samples; the same for every step."""
        losses, gradients = [], []
        for one in each(params):
            moving = [p.detach().requires_grad_() for p in one]
            losses.append(self.objective.backward(moving, torch.arange(1)))
            gradients.append([p.grad for p in moving])
        return torch.cat(losses), [torch.cat(grads) for grads in zip(*gradients, strict=True)]

    @torch.no_grad()
    def features(self, params: Sequence[Tensor], samples: int) -> dict[str, Tensor]:
        """Fields after the Fourier layers and solutions u of one network on the first test samples, flattened (N, d).

        Of a field with more than 2^16 numbers only every second, third, ... node is kept along both axes.
        """
        found: dict[str, list[Tensor]] = {}
        last = len(self.model.spectral_layers)

        def keep(number: int, z: Tensor) -> None:  # (x, y, sample, channel), before the activation
            points, _, _, width = z.shape
            step = math.ceil(points / math.isqrt(max(1, FIELD_NUMBERS // width)))
            z = z[::step, ::step].permute(2, 0, 1, 3).flatten(1)
            found.setdefault(f"Fourier layer {number}", []).append(z if number == last else F.gelu(z))

        hooks = [layer.register_forward_hook(lambda module, inputs, z, number=number: keep(number, z))
                 for number, layer in enumerate(self.model.spectral_layers, 1)]
        try:
            o = self.objective
            network = o.network(params)
            for a in o.test.a[:samples].split(o.block):
                u = network(a)
                found.setdefault("output", []).append(u.flatten(1))  # after the layers
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts) for name, parts in found.items()}

    def along_path(self) -> PINOSubject:
        """Itself: nothing but the weights changes along a path."""
        return self


def each(params: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """Stacked networks (k, ...) one after another, (1, ...)."""
    return zip(*(p.split(1) for p in params), strict=True)
