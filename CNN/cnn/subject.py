"""A finished ResNet as the landscape tools (diagnosis.py) see it: weights, training loss, test error, hidden layers.

The loss is the cross-entropy (objective.py). Hessian and landscape are taken on a probe: the first training images in
balanced order, which do not depend on n. Batch normalisation is what it is in evaluation, with the running statistics
of the run; `--bn batch` takes the statistics of the probe at every point instead, as the published landscape does and
ours does by default: of one ResNet18_w8 (n = 600) the loss at radius 0.5 was 13 by those of the probe, 1.8e13 by the
running ones. The weights between two runs have no running statistics: along a path they are estimated anew at every
point, ends included (Garipov et al. 2018, arXiv 1802.10026).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from .arguments import MODULE
from .data import DATASETS, Images, balanced_order, load, normalise
from .files import UsageError
from .hessian import Gradient, gradients_of
from .objective import PROBE, logits, probe, training_loss
from .record import Run
from .saved import read_weights, reopen
from .settings import Data, Recording, Settings

PROBED = ("hessian", "landscape")  # tools that take it
PATH = 1024  # images on which losses and errors along a path are taken, at most
BLOCK = 500  # images evaluated at a time, as in training
POINTS = 4  # a side, to which hidden layers are averaged
STATISTICS = ("running", "batch")


def clone(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy that may be changed."""
    return {name: value.clone() for name, value in buffers.items()}


# ---- finished runs -------------------------------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser, tool: str) -> None:
    """Where the images are and, of the tools that look at the training loss of one run, what it is of."""
    add = parser.add_argument_group("data").add_argument
    add("--data_dir", default=str(MODULE / "data"), metavar="DIR", help="where the archive and its folder are")
    add("--verify", action=argparse.BooleanOptionalAction, default=True, help="checksums of the files; --no-verify: a "
        "data set of one's own in the same file format")
    if tool in PROBED:
        add("--probe", type=int, metavar="B", help=f"training images that the loss is taken on: equally many of each "
            f"class, the same whatever n (default: {PROBE}, or all)")
        add("--bn", default="batch" if tool == "landscape" else "running", choices=STATISTICS, help="batch "
            "normalisation by the running statistics of the run, or by those of these images at every point")


def open_run(folder: Path, args: argparse.Namespace) -> tuple[Settings, Run]:
    """Settings and run folder of a finished run, from its config.json and the images; on the CPU.

    Raises:
        UsageError: when there is no finished CNN run, it is not what config.json says, or the images are others.
    """
    def make(config: dict[str, Any], _: dict[str, Any], path: Path) -> tuple[Settings, Run]:
        settings = rebuild(config, path, args)
        return settings, settings.run(config["seed"])

    return reopen(folder, "CNN", make)


def rebuild(config: dict[str, Any], path: Path, args: argparse.Namespace) -> Settings:
    """The settings of a run from its config.json, with the images that it was trained on."""
    data = read_images(config["dataset"], Path(args.data_dir).absolute(), args.verify)
    if data.identity != config["data"]:
        changes = [f"{name} {config['data'].get(name)} -> {value}" for name, value in data.identity.items()
                   if config["data"].get(name) != value]
        raise UsageError(f"--data_dir {args.data_dir} holds other images than {path} was trained on: "
                         f"{', '.join(changes)}")
    recording = Recording(config["loss"], config["steps"]) if "steps" in config else None
    return Settings(
        data=data, n=config["n_samples"], model=config["model"], init=config["init"], pretrain=config["pretrain"],
        epochs=config["epochs"], batch_size=config["batch_size"], lr=config["lr"], momentum=config["momentum"],
        weight_decay=config["weight_decay"], schedule=config["schedule"], augment=config["augment"],
        recording=recording, save_path=Path(*path.parts[:-6]), dtype=getattr(torch, config["precision"]),
        mixed_precision=config["mixed_precision"])


@lru_cache(maxsize=1)
def read_images(dataset: str, folder: Path, verify: bool) -> Data:
    """The images of a data set, read once for all runs of a command."""
    train, test = load(dataset, folder, verify)
    identity = {"train": len(train), "test": len(test), "train_crc32": train.checksum(), "test_crc32": test.checksum()}
    return Data(DATASETS[dataset], train.select(balanced_order(train.labels)), test, identity)


def open_subject(folder: Path, args: argparse.Namespace, dtype: torch.dtype | None = None) -> CNNSubject:
    """The finished run in a folder, on `args.device`, in `dtype` (None: that of the training).

    Raises:
        UsageError: when there is no finished CNN run, it is not what config.json says, its images are not there, or
            --probe is not from 1 to their number.
    """
    settings, run = open_run(folder, args)
    rows = len(settings.data.train)
    probed = getattr(args, "probe", None)
    probed = min(PROBE, rows) if probed is None else probed
    if not 1 <= probed <= rows:
        raise UsageError(f"--probe must be from 1 to {rows}, the training images of {args.data_dir}; got {probed}")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.conv.fp32_precision = "tf32" if settings.mixed_precision == "tf32" else "ieee"
    return CNNSubject(replace(settings, device=args.device, dtype=dtype or settings.dtype), run, probed,
                      getattr(args, "bn", "running"))


class CNNSubject:
    """One run. Attributes and methods are those of `diagnosis.Subject`.

    `weights` also takes up the running statistics that belong to them, for what is asked for next.
    """

    states = ("initial", "final")
    loss_name, error_name = "training loss (cross-entropy)", "test error (share of wrong labels)"
    chunk = batch = 1  # one network is work enough
    floor, restrictions = None, {}

    def __init__(self, settings: Settings, run: Run, probed: int, bn: str) -> None:
        self.settings, self.run, self.probed, self.bn = settings, run, probed, bn
        self.title = (f"CNN {settings.model}, {settings.data.dataset.name}, lr = {settings.lr:g}, n = {settings.n}, "
                      f"{settings.strategy}, seed {run.key.seed}")
        self.task: dict[str, Any] = {name: run.config[name] for name in
                                     ("model", "dataset", "n_samples", "data", "precision", "mixed_precision")}
        self.model = replace(settings, pretrain=False).build(run.key.seed)  # its weights are not looked at
        for layer in self.model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # statistics that are estimated are means over all batches
        self.names = [name for name, _ in self.model.named_parameters()]
        # output channels: the first axis of convolutions and of the last layer
        self.filters = [0 if p.ndim > 1 else None for p in self.model.parameters()]
        self.buffers = dict(self.model.named_buffers())
        unseen = max(0, probed - settings.n)
        self.data = (f"a probe of {probed} training images, classes balanced" +
                     f"; {unseen} of them are not among the {settings.n} that the run was trained on" * (unseen > 0) +
                     f"; batch normalisation by {'their own' if bn == 'batch' else 'the running'} statistics")

    @cached_property
    def train(self) -> Images:
        """Images that the training loss is taken on."""
        return probe(self.settings.data.train, self.probed).to(self.settings.device)

    @cached_property
    def test(self) -> Images:
        """Images that the test error is taken on."""
        images = self.settings.data.test
        return (first(images, PATH) if self.bn == "anew" else images).to(self.settings.device)

    @cached_property
    def training(self) -> Images:
        """All images that the run was trained on."""
        return self.settings.data.train.select(slice(self.settings.n)).to(self.settings.device)

    def weights(self, state: str) -> list[Tensor]:
        """Initial weights from the seed, final ones from model.pt: (1, ...) each.

        Raises:
            UsageError: when there are none, or of another network.
        """
        path, device, dtype = self.run.path / "model.pt", self.settings.device, self.settings.dtype
        if state == "initial":  # they round as they did in training
            start = replace(self.settings, dtype=getattr(torch, self.run.config["precision"]))
            found = start.build(self.run.key.seed).state_dict()
        else:
            found = read_weights(path).get("model", {})
        if {name: p.shape for name, p in found.items()} != {
                name: p.shape for name, p in self.model.state_dict().items()}:
            raise UsageError(f"{path} holds the weights of another network than config.json describes")
        self.buffers = {name: found[name].to(device, old.dtype) for name, old in self.model.named_buffers()}
        return [found[name].detach()[None].to(device, dtype) for name in self.names]

    def gradients(self, params: Sequence[Tensor]) -> Callable[[], Iterable[Gradient]]:
        """Gradients of the loss on the probe with their graphs, at leaves that require them."""
        pixels, labels = self._inputs(self.train)
        if self.bn == "batch":  # statistics have gradients too, so that the images cannot be taken apart
            found = logits(self.model, params, clone(self.buffers), pixels, training=True)
            return gradients_of(cross_entropy(found, labels)[None], params)
        return gradients_of(training_loss(self.model, params, self.buffers, pixels, labels), params)

    def losses(self, params: Sequence[Tensor]) -> Tensor:
        """Losses of k networks on the probe, (k,) float64 on the CPU."""
        return self._means(params, self.train)[:, 0]

    def errors(self, params: Sequence[Tensor]) -> Tensor:
        """Shares of wrong labels of k networks among the test images, (k,) float64 on the CPU."""
        return self._means(params, self.test)[:, 1]

    @torch.no_grad()
    def _means(self, params: Sequence[Tensor], images: Images) -> Tensor:
        """Mean cross-entropy and share of wrong labels of k networks, (k, 2), float64 on the CPU."""
        total = torch.zeros(len(params[0]), 2, dtype=torch.float64, device=self.settings.device)
        for k in range(len(total)):
            for found, labels in self._evaluate([p[k : k + 1] for p in params], images):
                wrong = (found.argmax(1) != labels).sum()
                total[k] += torch.stack([cross_entropy(found, labels, reduction="sum"), wrong.to(found)])
        means = (total / len(images)).cpu()
        means[~means[:, 0].isfinite(), 1] = torch.nan  # labels of NaN are no labels
        return means

    def _evaluate(self, params: Sequence[Tensor], images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and labels of the images, in blocks, by the statistics of this subject."""
        if self.bn == "batch":  # all at once
            pixels, labels = self._inputs(images)
            yield logits(self.model, params, clone(self.buffers), pixels, training=True), labels
            return
        buffers = self._estimate(params) if self.bn == "anew" else self.buffers
        for start in range(0, len(images), BLOCK):
            pixels, labels = self._inputs(images.select(slice(start, start + BLOCK)))
            yield logits(self.model, params, buffers, pixels), labels

    def _estimate(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        """Running statistics of one network: means over batches of the training images."""
        buffers = {name: torch.zeros_like(value) for name, value in self.buffers.items()}
        for rows in torch.arange(len(self.train)).tensor_split(math.ceil(len(self.train) / BLOCK)):
            logits(self.model, params, buffers, self._inputs(self.train.select(rows))[0], training=True)
        return buffers

    def _inputs(self, images: Images) -> tuple[Tensor, Tensor]:
        """Images as the network sees them, and labels."""
        return normalise(images.pixels, self.settings.data.dataset.name, self.settings.dtype), images.labels

    def loss_and_gradients(self, params: Sequence[Tensor], step: int) -> tuple[Tensor, list[Tensor]]:
        """Losses (k,) and their gradients (k, ...) on mini-batch `step` of the run's images, by its own statistics.

        The images are shuffled every epoch, and not augmented.
        """
        epoch, number = divmod(step, math.ceil(self.settings.n / self.settings.batch))
        order = torch.randperm(self.settings.n, generator=torch.Generator().manual_seed(epoch))
        pixels, labels = self._inputs(self.training.select(order.split(self.settings.batch)[number]))
        moving = [p.detach().requires_grad_() for p in params]
        losses = []
        for k in range(len(moving[0])):
            found = logits(self.model, [p[k : k + 1] for p in moving], clone(self.buffers), pixels, training=True)
            losses.append(cross_entropy(found, labels))
            losses[-1].backward()
        return torch.stack(losses).detach(), [p.grad for p in moving]

    @torch.no_grad()
    def features(self, params: Sequence[Tensor], samples: int) -> dict[str, Tensor]:
        """Stem (before batch normalisation) and stages, averaged to POINTS x POINTS pixels, and the logits, of one
        network on the first `samples` test images in balanced order: (N, d) each.
        """
        layers = {"stem": self.model.conv1} | {f"stage {k}": getattr(self.model, f"layer{k}") for k in range(1, 5)}
        found: dict[str, list[Tensor]] = {name: [] for name in (*layers, "output")}

        def note(name: str) -> Callable[..., None]:
            def hook(layer: torch.nn.Module, inputs: Any, z: Tensor) -> None:
                found[name].append(adaptive_avg_pool2d(z, POINTS).flatten(1))
            return hook

        hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
        try:
            for output, _ in self._evaluate(params, first(self.test, samples)):
                found["output"].append(output)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: torch.cat(parts) for name, parts in found.items()}

    def along_path(self) -> CNNSubject:
        """The same on images of the run's own training set and of the test set, PATH of each at most, with statistics
        estimated anew for each network.
        """
        n, tests = self.settings.n, len(self.settings.data.test)
        other = CNNSubject(self.settings, self.run, min(PATH, n), "anew")
        other.data = (f"{min(PATH, n)} of the {n} training images and {min(PATH, tests)} test images, classes balanced"
                      f"; statistics of batch normalisation estimated anew from the former")
        return other


def first(images: Images, count: int) -> Images:
    """Up to `count` images, classes balanced."""
    return images.select(balanced_order(images.labels)[:count])
