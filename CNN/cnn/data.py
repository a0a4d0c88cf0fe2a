"""CIFAR-10 and CIFAR-100: images, their augmentation and their normalisation.

The batch files are read by torchvision, in its folder layout, under the data folder. Those that are missing are
extracted from the archive beside them, which is downloaded where it is missing; those with another checksum are
refused, as they may be a data set of one's own. One process does this at a time, others wait for it.

Images stay uint8 until a batch is normalised: x = (pixel / 255 - mean) / std for each channel. Augmentation happens
before that, on pixels, with draws that are made beforehand:

    train, test = load("CIFAR-10", Path("data"))
    augment = Augment("flip")
    draws = augment.draw(len(train), generator)                       # of an epoch
    batch = augment.apply(train.pixels[rows], draws[rows])
    inputs = normalise(batch, "CIFAR-10", torch.float32)
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .files import Claimable, UsageError

TIMEOUT = 30.0  # seconds without an answer from the network


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set; `mean` and `std` of the channels as usual for it, in units of 255."""

    name: str
    system: str
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: str  # the published choice


DATASETS = {data.name: data for data in (
    Dataset("CIFAR-10", "cifar10", 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), "flip"),
    Dataset("CIFAR-100", "cifar100", 100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), "crop+flip"),
)}


@dataclass(frozen=True, eq=False)
class Images:
    """Images and their classes: pixels uint8 (n, 3, 32, 32), channels_last; labels int64 (n,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Images:
        """The same on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))

    def select(self, rows: Tensor | slice) -> Images:
        """The rows (m,), in this order; those of a slice are not copied."""
        if isinstance(rows, slice):
            return Images(self.pixels[rows], self.labels[rows])
        rows = rows.to(self.labels.device)
        return Images(self.pixels[rows].contiguous(memory_format=torch.channels_last), self.labels[rows])

    def checksum(self) -> int:
        """CRC-32 of all pixels and labels, to tell data sets apart."""
        return zlib.crc32(self.labels.numpy(), zlib.crc32(self.pixels.permute(0, 2, 3, 1).numpy()))


# ---- files -------------------------------------------------------------------------------------


def load(dataset: str, folder: Path, verify: bool = True) -> tuple[Images, Images]:
    """The training and the test images, on the CPU, in the order of the files.

    With `verify` the files must have the published checksums; without, they may hold any number of images, nothing is
    downloaded, and an archive is extracted only where the folder of batch files is missing. Where all is in order
    nothing is written.

    Raises:
        UsageError: for data that are not there, broken, or cannot be written.
    """
    source = _Source(DATASETS[dataset], Path(folder).absolute(), verify)
    try:
        if source.problem():
            source.obtain()
            if problem := source.problem():
                raise UsageError(f"--data_dir: {problem}")
        return source.read(source.train), source.read(source.test)
    except OSError as error:
        raise UsageError(f"--data_dir {folder}: {error}") from error


class _Source:
    """The files of a data set in a folder, as torchvision's reader describes them."""

    def __init__(self, data: Dataset, folder: Path, verify: bool) -> None:
        from .vision import torchvision  # takes 2 s: only those who need the images wait

        self.data, self.folder, self.verify = data, folder, verify
        self.reader: Any = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
            data.system]
        self.utils: Any = torchvision.datasets.utils
        self.batches = folder / self.reader.base_folder
        self.archive = folder / self.reader.filename
        self.train = [name for name, _ in self.reader.train_list]
        self.test = [name for name, _ in self.reader.test_list]
        meta = self.reader.meta
        self.md5 = dict([*self.reader.train_list, *self.reader.test_list, (meta["filename"], meta["md5"])])

    def damage(self, name: str) -> str | None:
        """What is wrong with a batch file, without looking into it."""
        path = self.batches / name
        if not path.is_file():
            return f"{path} is missing"
        intact = not self.verify or self.utils.check_integrity(path, self.md5[name])
        return None if intact else (f"{path} is another file than {self.data.name}'s, which has the MD5 "
                                    f"{self.md5[name]}; --no-verify takes data of one's own, else remove it")

    def problem(self) -> str | None:
        """What is wrong with the first batch file that is not in order."""
        return next(filter(None, map(self.damage, self.md5)), None)

    def obtain(self) -> None:
        """Put the batch files there: from the archive, which is downloaded where it must be."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--data_dir {self.folder} must be a folder, it is a file")
        if not self.verify and self.batches.exists():  # what is missing there is not for us to fill in
            return
        for name in self.md5:  # nor what is there to replace: it may be somebody's own
            if (self.batches / name).exists() and (problem := self.damage(name)):
                raise UsageError(f"--data_dir: {problem}")
        if not self.verify and not self.archive.exists():
            raise UsageError(f"--data_dir: neither {self.batches} nor {self.archive} is there; --no-verify downloads "
                             "nothing")
        with _claimed(self.folder):
            if not self.problem():  # another process was quicker
                return
            work = self.folder / f"{self.batches.name}.tmp"
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
            try:
                work.mkdir()
                if self.verify and not self.utils.check_integrity(self.archive, self.reader.tgz_md5):
                    self.download(work)
                self.extract(work)
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def download(self, work: Path) -> None:
        """Download the archive to the folder `work`, check it, and move it to its place."""
        url, md5 = self.reader.url, self.reader.tgz_md5
        state = "does not have its checksum" if self.archive.exists() else "is not there"
        try:
            with downloading(url, self.archive):
                self.utils.download_url(url, work, self.archive.name)
            if not self.utils.check_integrity(work / self.archive.name, md5):
                raise RuntimeError("what came has another checksum")
        except (OSError, RuntimeError, HTTPException) as error:
            raise UsageError(f"--data_dir: {self.archive} {state}, and no download ({error}); put {url} there, "
                             f"MD5 {md5} (data of one's own: --no-verify)") from error
        os.replace(work / self.archive.name, self.archive)

    def extract(self, work: Path) -> None:
        """Extract the archive to the folder `work` and move what is needed to its place."""
        try:
            shutil.unpack_archive(self.archive, work, filter="data")
        except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
            raise UsageError(f"--data_dir: {self.archive} cannot be extracted: {error}") from error
        unpacked = work / self.batches.name
        if not unpacked.is_dir():
            raise UsageError(f"--data_dir: {self.archive} holds no folder {self.batches.name}")
        if not self.batches.exists():
            os.replace(unpacked, self.batches)  # in one step: without checksums a part would pass for all
            return
        for name in filter(self.damage, self.md5):
            os.replace(unpacked / name, self.batches / name)

    def read(self, names: list[str]) -> Images:
        """The images of batch files.

        Raises:
            UsageError: naming the file that holds something else.
        """
        parts = [self._read(name) for name in names]
        pixels = torch.cat([torch.from_numpy(pixels) for pixels, _ in parts])  # (n, 32, 32, 3)
        labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
        return Images(pixels.contiguous().permute(0, 3, 1, 2), labels)

    def _read(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (n, 32, 32, 3) and labels (n,) of one file."""
        path, classes = self.batches / name, self.data.classes
        meta = self.reader.meta | {"md5": None}
        one = type(name, (self.reader,), {"train_list": [(name, None)], "test_list": [], "meta": meta})
        try:
            found = one(self.folder)
            pixels, labels = found.data, np.asarray(found.targets)
        except OSError:
            raise
        except Exception as error:  # a pickle of something else may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f"--data_dir: {path} is no batch file of {self.data.name} ({reason})") from error
        wrong = None
        if pixels.dtype != np.uint8:
            wrong = f"pixels of type {pixels.dtype}, not uint8"
        elif not len(pixels):
            wrong = "no image"
        elif len(pixels) != len(labels):
            wrong = f"{len(pixels)} images of 3 x 32 x 32 and {len(labels)} labels"
        elif labels.dtype.kind not in "iu" or labels.ndim != 1:
            wrong = "labels that are not whole numbers"
        elif labels.min() < 0 or labels.max() >= classes:
            wrong = f"labels from {labels.min()} to {labels.max()}, allowed: 0 to {classes - 1}"
        if wrong:
            raise UsageError(f"--data_dir: {path} holds {wrong}")
        return pixels, labels.astype(np.int64)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Have the folder to ourselves; another process that fills it is waited for."""
    claimable, told = Claimable(folder), False
    while not claimable.claim():
        if not told:
            print(f"{folder}: {claimable.holder} fills it, waiting", file=sys.stderr, flush=True)
            told = True
        time.sleep(0.2)
    try:
        yield
    finally:
        claimable.release()


@contextmanager
def downloading(url: str, target: Path | str) -> Iterator[None]:
    """A download by torch or torchvision: one line on stderr, there a bar on a terminal, nothing on stdout, a timeout.

    They name the file on stdout and draw their bar in a log file as well.
    """
    print(f"downloading {url} to {target}", file=sys.stderr, flush=True)
    before = socket.getdefaulttimeout()
    with ExitStack() as quiet:
        quiet.enter_context(redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            quiet.enter_context(redirect_stderr(io.StringIO()))
        quiet.callback(socket.setdefaulttimeout, before)
        socket.setdefaulttimeout(TIMEOUT)
        yield


# ---- subsets and batches -----------------------------------------------------------------------


def balanced_order(labels: Tensor) -> Tensor:
    """Rows (n,) such that each prefix has equally many of each class, to within one, while all classes last.

    The k-th image of each class in the order of the file, class after class, then the k+1-st: subsets are nested, and
    the same whatever the seed of a run.
    """
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(labels), device=labels.device) - starts[labels[order]]
    return order[rank.argsort(stable=True)]


_HIGHS = {"none": (), "flip": (2,), "crop+flip": (9, 9, 2)}  # row offset, column offset, flip: from 0 to below these
AUGMENTATIONS = tuple(_HIGHS)


class Augment:
    """Random changes of the training images; `kind` is one of AUGMENTATIONS.

    flip: mirrored with probability 1/2; crop+flip: before that, a random 32 x 32 window of the image with 4 black
    pixels around it, as torchvision's RandomCrop(32, padding=4).
    """

    def __init__(self, kind: str) -> None:
        """Raise ValueError for an unknown kind."""
        if kind not in AUGMENTATIONS:
            raise ValueError(f"augmentation {kind!r}: one of {', '.join(AUGMENTATIONS)}")
        self.kind = kind

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """What happens to each of n images: int64 (n, 0), (n, 1) or (n, 3), on the CPU, as is the generator."""
        highs = torch.tensor(_HIGHS[self.kind], dtype=torch.float64)
        return (torch.rand(n, len(highs), generator=generator, dtype=torch.float64) * highs).long()

    def apply(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Change images (B, 3, 32, 32) by their draws (B, k); the result is channels_last."""
        if self.kind == "none":
            return pixels
        draws = draws.to(pixels.device, non_blocking=True)
        span = torch.arange(pixels.shape[-1], device=pixels.device)
        rows, columns = span[None], torch.where(draws[:, -1:] == 1, span.flip(0), span)
        if self.kind == "crop+flip":
            pixels = functional.pad(pixels, (4, 4, 4, 4))
            rows, columns = rows + draws[:, :1], columns + draws[:, 1:2]
        batch = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        return pixels.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


@cache
def _scale(dataset: str, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    data = DATASETS[dataset]
    return [torch.tensor(values, dtype=dtype, device=device).view(1, 3, 1, 1) for values in (data.mean, data.std)]


def normalise(pixels: Tensor, dataset: str, dtype: torch.dtype) -> Tensor:
    """(pixels / 255 - mean) / std for each channel: uint8 (B, 3, 32, 32) to `dtype`, channels_last."""
    mean, std = _scale(dataset, dtype, pixels.device)
    return pixels.to(dtype, memory_format=torch.channels_last).div_(255).sub_(mean).div_(std)
