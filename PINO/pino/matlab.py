"""MATLAB files: the published layout, written; and the benchmark's, read.

Published: coeff (n, N, N) and sol (n, N, N) float64, f, tau, alpha, a_low and sigma_scale, MATLAB v5, compressed.

The benchmark of Li et al. (arXiv 2010.08895) has coeff and sol in piececonst_r421_N1024_smooth1.mat (training) and
..._smooth2.mat (test), where r421 is the resolution and the contrast is 4. piececonst_r{R}_N{n}_smooth1.mat or
..._smooth.mat and ..._smooth2.mat, with the contrast R, hold other contrasts. Both v5 and v7.3 are read; the latter is
HDF5, with the axes in reverse.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np
import scipy.io

from .fields import Fields
from .files import UsageError, atomic_write
from .store import GENERATOR, Recipe

KEYS = ("coeff", "sol", "f")  # that are read
LARGEST = 2**31 - 1  # bytes of an array in MATLAB v5
_HEADER = 116  # bytes of text at the beginning of the file


# ---- the published layout, written -------------------------------------------------------------


def check_rows(recipe: Recipe, rows: int, flag: str) -> None:
    """Raise UsageError where so many rows do not fit into a MATLAB v5 array."""
    most = (LARGEST - 1024) // (8 * recipe.size**2)  # less what stands around the numbers
    if rows > most:
        raise UsageError(f"--{flag} must be at most {most} with --format mat and N = {recipe.size}: arrays of 2 GiB or "
                         f"more do not fit into MATLAB v5 files; got {rows}")


def _title(recipe: Recipe, rows: int, size: int) -> bytes:
    """Text of the header: by it a file of other arguments and one that was cut short are known."""
    arguments = zlib.crc32(json.dumps([recipe.identity(), rows]).encode())
    return f"MATLAB 5.0 MAT-file, {GENERATOR}, arguments {arguments:08x}, {size} bytes".encode().ljust(_HEADER)


def check(path: Path, recipe: Recipe, rows: int) -> None:
    """Raise UsageError unless this is a finished file of the recipe with so many rows."""
    with open(path, "rb") as file:
        title = file.read(_HEADER)
    if title != _title(recipe, rows, path.stat().st_size):
        raise UsageError(f"{path} was made with other arguments or by another program, or is cut short")


class _Lazy:
    """What savemat needs of a dict, with arrays that are made one after the other."""

    def __init__(self, makers: dict[str, Callable[[], object]]) -> None:
        self.makers = makers

    def items(self) -> Iterator[tuple[str, object]]:
        """Name and value."""
        for name, make in self.makers.items():
            yield name, make()


def write(path: Path, recipe: Recipe, bits: np.ndarray, sol: Callable[[], np.ndarray], sigma_scale: float) -> None:
    """Write a file of the published layout; `sol` gives (n, N, N) float64. Raises OSError."""
    fields = Fields(bits, recipe.size, recipe.low, recipe.low * recipe.r, recipe.f, bits, 1)
    scalars = {"f": recipe.f, "tau": recipe.tau, "alpha": recipe.alpha, "a_low": recipe.low, "sigma_scale": sigma_scale}
    values = _Lazy({"coeff": fields.coefficient, "sol": sol} | {k: lambda v=v: v for k, v in scalars.items()})

    def writer(file: BinaryIO) -> None:
        scipy.io.savemat(file, values, do_compression=True)
        size = file.tell()
        file.seek(0)
        file.write(_title(recipe, len(bits), size))

    atomic_write(path, writer)


# ---- the benchmark, read -----------------------------------------------------------------------


def read_benchmark(folder: Path, n: int, split: str, r: float, stride: int) -> Fields:
    """The first n fields of a benchmark file, with u at every `stride`-th node as float32.

    Raises:
        UsageError: no such file, unreadable, other keys or shapes, not finite; fewer than n rows; a of other than two
            values or another contrast than r (1e-6); a stride that does not divide N - 1.
    """
    path = _find(Path(folder), split, r)
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r", locking=False) as file:
                return _fields(path, n, r, stride, {name: _Reversed(file[name]) for name in KEYS if name in file})
        listing = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(path)}
        return _fields(path, n, r, stride, {name: _Compact(path, name, *listing[name]) for name in KEYS
                                            if name in listing})
    except UsageError:
        raise
    except Exception as error:  # a damaged file can raise anything in scipy
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UsageError(f"{path} cannot be read: {text}") from error


def _find(folder: Path, split: str, r: float) -> Path:
    """The file of a split: one whose name says the contrast, the one with most rows, or the classic one."""
    ending = "1?" if split == "train" else "2"
    found = []
    for path in folder.glob("piececonst_r*_N*_smooth*.mat"):
        match = re.fullmatch(rf"piececonst_r(\d+(?:\.\d+)?)_N(\d+)_smooth({ending})\.mat", path.name)
        if match and math.isclose(float(match[1]), r, rel_tol=1e-6):
            found.append((int(match[2]), match[3], path))
    classic = folder / f"piececonst_r421_N1024_smooth{ending[0]}.mat"
    if found:
        return max(found)[-1]
    if not classic.exists():
        raise UsageError(f"{folder}: no piececonst_r{r:g}_N..._smooth{ending[0]}.mat and no {classic.name}")
    return classic


class _Reversed:
    """An array of a v7.3 file, an HDF5 dataset, as MATLAB sees it: the axes in reverse."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset, self.shape, self.real = dataset, dataset.shape[::-1], dataset.dtype.kind == "f"

    def first(self, n: int, stride: int) -> np.ndarray:
        """The first n rows at every `stride`-th node."""
        planes = [self.dataset[i, :, :n][::stride] for i in range(0, self.shape[2], stride)]
        return np.stack(planes).transpose(2, 1, 0)

    def number(self) -> float:
        """The only number."""
        return float(self.dataset[()].item())


class _Compact:
    """An array of a v5 file, which can be read as a whole only, when it is needed."""

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], kind: str) -> None:
        self.path, self.name, self.shape, self.real = path, name, shape, kind in ("double", "single")

    def _read(self) -> np.ndarray:
        return scipy.io.loadmat(self.path, variable_names=[self.name])[self.name]

    def first(self, n: int, stride: int) -> np.ndarray:
        """The first n rows at every `stride`-th node."""
        return self._read()[:n, ::stride, ::stride]

    def number(self) -> float:
        """The only number."""
        return float(self._read().item())


def _fields(path: Path, n: int, r: float, stride: int, arrays: dict[str, _Reversed] | dict[str, _Compact]) -> Fields:
    """Check and reduce what is in a file."""
    for name in ("coeff", "sol"):
        if name not in arrays:
            raise UsageError(f"{path}: there is no array `{name}`")
        shape = arrays[name].shape
        if len(shape) != 3 or shape != arrays["coeff"].shape or shape[1] != shape[2] or not arrays[name].real:
            raise UsageError(f"{path}: `{name}` must be (n, N, N) real numbers, as `coeff` is, got {tuple(shape)}")
    rows, size, _ = shape
    if rows < n:
        raise UsageError(f"{path} holds {rows} samples, {n} are asked for (--n_samples, --test_num)")
    if (size - 1) % stride:
        raise UsageError(f"{path}: the stride {stride} must divide N - 1 = {size - 1}")
    u = np.ascontiguousarray(arrays["sol"].first(n, stride), np.float32)
    a, f = arrays["coeff"].first(n, 1), arrays["f"].number() if "f" in arrays else 1.0
    low, high = float(a.min()), float(a.max())  # NaN if there is one
    if not (np.isfinite(u).all() and math.isfinite(low + high + f)):
        raise UsageError(f"{path} holds numbers that are not finite")
    signs = a == high
    if low <= 0 or not (signs | (a == low)).all():
        raise UsageError(f"{path}: `coeff` must have two values above 0, it goes from {low:g} to {high:g}")
    if not math.isclose(high / low, r, rel_tol=1e-6):
        raise UsageError(f"{path} holds the contrast {high / low:g} (a = {low:g} and {high:g}), not r = {r:g}")
    bits = np.packbits(signs.reshape(n, -1) & (low < high), axis=1)
    identity = {"file": path.name, "N": size, "r": high / low, "f": f, "sub": stride,
                "crc32": zlib.crc32(u, zlib.crc32(bits))}
    return Fields(bits, size, low, high, f, u, stride, path, identity)
