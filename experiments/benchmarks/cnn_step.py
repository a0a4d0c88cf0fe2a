#!/usr/bin/env python3
"""Time of a training step of a ResNet-18 on CIFAR-10, the images included.

(a) plain: torchvision's CIFAR10 with its transforms (flip, to a tensor, normalise), image by image in a DataLoader
(--workers processes), an NCHW network, the loss read at every step; (b) CNN/: uint8 images in memory, augmented and
normalised a batch at a time, channels_last. `images` is (a)'s and (b)'s time to deliver a batch, without the network.
One after the other in turns; medians, and ratios of medians. The images are noise, written in CIFAR's format.

    python experiments/benchmarks/cnn_step.py                                     # about 3 minutes on two cores
    python experiments/benchmarks/cnn_step.py --models ResNet18 --batch 128 --device cuda --workers 4
"""

import argparse
import itertools
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

IMAGES = 2_000


def write_images(folder: Path) -> None:
    """Noise in CIFAR-10's file format."""
    rng = np.random.default_rng(0)
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"]:
        content = {"data": rng.integers(256, size=(IMAGES // 5, 3072), dtype=np.uint8),
                   "labels": rng.integers(10, size=IMAGES // 5).tolist(), "label_names": [str(k) for k in range(10)]}
        (batches / name).write_bytes(pickle.dumps(content, protocol=2))


def plain_batches(folder: Path, batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
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
    loader = torch.utils.data.DataLoader(Unchecked(folder, transform=transform), batch, shuffle=True, drop_last=True,
                                         num_workers=workers, persistent_workers=workers > 0)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def plain(folder: Path, model: str, batch: int, workers: int, device: str) -> list[Callable[[], object]]:
    """A batch of images, and a training step as written in most scripts."""
    batches = plain_batches(folder, batch, workers)
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


def ours(folder: Path, model: str, batch: int, device: str) -> list[Callable[[], object]]:
    """The same of CNN/."""
    args = parse(["--model", model, "--data_dir", str(folder), "--no-verify", "--lr", "0.01", "--device", device,
                  "--batch_size", str(batch), "--save_path", str(folder)], trajectory=False)
    (cell,) = settings(args, trajectory=False)
    trainer = Trainer(cell, cell.run(0))
    trainer.progress.every = 0
    order, draws = trainer.shuffle()

    def step() -> None:
        trainer.step_number %= IMAGES // batch
        trainer.step(order, draws)
    return [lambda: trainer.batch(order, draws), step]


def milliseconds(call: Callable[[], object], device: str) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ResNet18_w8", "ResNet18_w16", "ResNet18"], choices=MODELS)
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each, in turns")
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed_memory()  # for both alike
    torch.manual_seed(0)
    gpu = args.device.startswith("cuda")
    device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device}; milliseconds for {args.batch} images, medians of {args.repeats}, "
          f"{args.workers} workers\n\n{'':>12} {'images':>20} {'step':>20}\n"
          f"{'model':>12} {'plain':>8} {'ours':>6} {'x':>4} {'plain':>8} {'ours':>6} {'x':>4}")
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name))
        for model in args.models:
            calls = [*plain(Path(name), model, args.batch, args.workers, args.device),
                     *ours(Path(name), model, args.batch, args.device)]
            times = [[milliseconds(call, args.device) for call in calls] for _ in range(args.repeats + 1)][1:]
            a, c, b, d = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{model:>12} {a:8.1f} {b:6.1f} {a / b:4.1f} {c:8.1f} {d:6.1f} {c / d:4.1f}", flush=True)


if __name__ == "__main__":
    main()
