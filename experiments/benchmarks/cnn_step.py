#!/usr/bin/env python3
"""Time of a training step of a ResNet-18 on CIFAR-10, the images included.

(a) plain: torchvision's CIFAR10 with its transforms (flip, to a tensor, normalise), image by image in a DataLoader, an
NCHW network, the loss read at every step; (b) CNN/: uint8 images in memory, augmented and normalised a batch at a time,
channels_last. `images` is (a)'s and (b)'s time to deliver a batch, without the network. One after the other in turns;
medians, and ratios of medians. The DataLoader has no processes of its own: they would prepare (a)'s next batches while
(b) is measured. The images are noise, written in CIFAR's format.

    python experiments/benchmarks/cnn_step.py                                     # about 3 minutes on two cores
    python experiments/benchmarks/cnn_step.py --models ResNet18 --batch 128 --device cuda
"""

import argparse
import itertools
import math
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "CNN"))
from cnn.arguments import parse, settings
from cnn.model import MODELS, build
from cnn.session import keep_freed_memory
from cnn.train import Trainer
from cnn.vision import torchvision

FILES = 5  # of training images


def write_images(folder: Path, batch: int) -> int:
    """Noise in CIFAR-10's file format, at least two batches of training images; returns how many."""
    rng, rows = np.random.default_rng(0), max(400, math.ceil(2 * batch / FILES))
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    for name in [*(f"data_batch_{k}" for k in range(1, FILES + 1)), "test_batch", "batches.meta"]:
        content = {"data": rng.integers(256, size=(rows, 3072), dtype=np.uint8),
                   "labels": rng.integers(10, size=rows).tolist(), "label_names": [str(k) for k in range(10)]}
        (batches / name).write_bytes(pickle.dumps(content, protocol=2))
    return FILES * rows


def plain_batches(folder: Path, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Without end."""
    class Unchecked(torchvision.datasets.CIFAR10):
        """Files of another content than CIFAR-10's."""

        train_list = [(name, None) for name, _ in torchvision.datasets.CIFAR10.train_list]
        test_list = [(name, None) for name, _ in torchvision.datasets.CIFAR10.test_list]
        meta = torchvision.datasets.CIFAR10.meta | {"md5": None}

    transforms = torchvision.transforms
    transform = transforms.Compose([
        transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))])
    loader = torch.utils.data.DataLoader(Unchecked(folder, transform=transform), batch, shuffle=True, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def plain(folder: Path, model: str, batch: int, device: str) -> list[Callable[[], object]]:
    """A batch of images, and a training step as written in most scripts."""
    batches = plain_batches(folder, batch)
    net = build(model, 10, 0, "fan_out").to(device, memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=1e-3)

    def images() -> list[Tensor]:
        return [x.to(device) for x in next(batches)]

    def step() -> None:
        pixels, labels = images()
        optimizer.zero_grad()
        loss = cross_entropy(net(pixels), labels)
        loss.backward()
        optimizer.step()
        loss.item()
    return [images, step]


def ours(folder: Path, images: int, model: str, batch: int, device: str) -> list[Callable[[], object]]:
    """The same of CNN/."""
    args = parse(["--model", model, "--data_dir", str(folder), "--no-verify", "--lr", "0.01", "--device", device,
                  "--batch_size", str(batch), "--save_path", str(folder)], trajectory=False)
    (cell,) = settings(args, trajectory=False)
    trainer = Trainer(cell, cell.run(0))
    trainer.progress.every = 0
    order, draws = trainer.shuffle()

    def step() -> None:
        trainer.step_number %= images // batch
        trainer.step(order, draws)
    return [lambda: trainer.batch(order, draws), step]


def milliseconds(call: Callable[[], object], device: str) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def count(text: str) -> int:
    """A whole number from 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return int(text)


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ResNet18_w8", "ResNet18_w16", "ResNet18"], choices=MODELS)
    parser.add_argument("--batch", type=count, default=128, help="images a step")
    parser.add_argument("--repeats", type=count, default=5, help="measurements of each, in turns")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed_memory()  # for both alike
    torch.manual_seed(0)
    gpu = args.device.startswith("cuda")
    device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device}; milliseconds for {args.batch} images, medians of {args.repeats}\n\n"
          f"{'':>12} {'images':>20} {'step':>20}\n"
          f"{'model':>12} {'plain':>8} {'ours':>6} {'x':>4} {'plain':>8} {'ours':>6} {'x':>4}")
    with tempfile.TemporaryDirectory() as name:
        images = write_images(Path(name), args.batch)
        for model in args.models:
            calls = [*plain(Path(name), model, args.batch, args.device),
                     *ours(Path(name), images, model, args.batch, args.device)]
            times = [[milliseconds(call, args.device) for call in calls] for _ in range(args.repeats + 1)][1:]
            a, c, b, d = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{model:>12} {a:8.1f} {b:6.1f} {a / b:4.1f} {c:8.1f} {d:6.1f} {c / d:4.1f}", flush=True)


if __name__ == "__main__":
    main()
