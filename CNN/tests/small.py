"""Small data sets in CIFAR's file format, and the commands as a subprocess or in this process, to test with."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

CNN = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CNN)] if str(CNN) not in sys.path else []

from cnn.command import main  # noqa: E402

#: Classes of CIFAR-10; more are written in the format of CIFAR-100.
CLASSES = 10


def make_data(folder: Path, n_train: int, n_test: int, classes: int = CLASSES, archive: bool = False, seed: int = 0,
              learnable: bool = True) -> Path:
    """Write a data set with labels 0 to classes - 1, in equal shares, into a folder, which is returned.

    An image is the coarse pattern of its class and noise; with `learnable` false, of a class drawn at random. Up to ten
    classes give cifar-10-batches-py with the training images in five files, more give cifar-100-python with one;
    `archive` gives cifar-10-python.tar.gz or cifar-100-python.tar.gz in place of that folder.
    """
    rng = np.random.default_rng(seed)
    patterns = rng.uniform(40, 215, (classes, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    ten = classes <= CLASSES
    batches = folder / ("cifar-10-batches-py" if ten else "cifar-100-python")
    batches.mkdir(parents=True)

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.arange(n) % classes)
        shown = labels if learnable else rng.integers(classes, size=n)
        pixels = patterns[shown] + rng.normal(0, 30, (n, 3, 32, 32))
        return pixels.clip(0, 255).astype(np.uint8).reshape(n, 3072), labels

    def write(name: str, title: str, pixels: np.ndarray, labels: np.ndarray) -> None:
        numbers = {"labels": labels.tolist()} if ten else {"fine_labels": labels.tolist(),
                                                           "coarse_labels": (labels // 5).tolist()}
        names = [f"{label}_{row:05}.png" for row, label in enumerate(labels)]
        dump(batches / name, {"batch_label": title, "data": pixels, "filenames": names} | numbers)

    pixels, labels = split(n_train)
    parts = 5 if ten else 1
    for k, rows in enumerate(np.array_split(np.arange(n_train), parts), 1):
        name = f"data_batch_{k}" if ten else "train"
        write(name, f"training batch {k} of {parts}", pixels[rows], labels[rows])
    write("test_batch" if ten else "test", "testing batch 1 of 1", *split(n_test))
    words = [f"class {k}" for k in range(classes)]
    dump(batches / ("batches.meta" if ten else "meta"), {"label_names" if ten else "fine_label_names": words})
    if archive:
        with tarfile.open(folder / ("cifar-10-python.tar.gz" if ten else "cifar-100-python.tar.gz"), "w:gz") as tar:
            tar.add(batches, batches.name)
        shutil.rmtree(batches)
    return folder


def dump(path: Path, content: Any) -> None:
    """Pickle as CIFAR's files are: protocol 2, entries named by strings (which Python 3 may read as bytes)."""
    path.write_bytes(pickle.dumps(content, protocol=2))


# ---- the commands ------------------------------------------------------------------------------

#: The narrowest network, and what every tiny run has.
MODEL = "ResNet18_w8"
TINY = ("--model", MODEL, "--no-verify", "--batch_size", "20")
RUN = Path("results/resnet18_w8/cifar10/sgd/lr_0.1/n_40/seed_0")
#: What a run leaves, and what its result has beside loss and error.
FILES = {"config.json", "history.csv", "metrics.json", "model.pt"}
METRICS = {"train_error", "test_loss", "train_loss_running", "epochs", "parameters"}


def run(*argv: object, cwd: Path, script: str = "run_exp.py",
        timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`python <script> *argv` from the folder `cwd`, on one thread of the CPU."""
    words = [sys.executable, str(CNN / script), *map(str, argv)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def call(*argv: object, cwd: Path, trajectory: bool = False) -> subprocess.CompletedProcess[str]:
    """The same in this process, on the CPU, which saves the imports."""
    words = [*map(str, argv), *(() if "--device" in argv else ("--device", "cpu"))]
    signals = (signal.SIGUSR1, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in signals]
    backends = [(module, name, getattr(module, name)) for module, name in [
        (torch.backends.cudnn, "deterministic"), (torch.backends.cudnn.conv, "fp32_precision")]]
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words, trajectory, asked=[])
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
        for module, name, value in backends:
            setattr(module, name, value)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def tiny(data: Path, flags: str = "", trajectory: bool = False) -> list[object]:
    """Arguments of a run of 40 images and two epochs of two updates, in RUN below the working directory."""
    epochs = "--max_epochs" if trajectory else "--epochs"
    return [*TINY, "--data_dir", data, "--n_samples", 40, epochs, 2, *shlex.split(flags)]


def result(folder: Path, data: Path, flags: str = "", trajectory: bool = False) -> dict[str, Any]:
    """The result of a tiny run in this process, which must be the only one in the folder."""
    done = call(*tiny(data, flags, trajectory), cwd=folder, trajectory=trajectory)
    assert done.returncode == 0, done
    (found,) = results(folder)
    return found


def read_strict(path: Path) -> dict[str, Any]:
    """Parse JSON and refuse NaN and Infinity."""

    def refuse(text: str) -> None:
        raise AssertionError(text)

    return json.loads(path.read_text(), parse_constant=refuse)


def results(path: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their paths."""
    return [read_strict(found) for found in sorted(path.rglob("metrics.json"))]


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
