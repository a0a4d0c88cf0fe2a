"""Data files of the FNO: opened, checked, and held on the device as the network sees them.

Row i of a subset is row i * subsample of the file. The generators store forcings from dense to sparse, so a subset has
equal shares of them (where the subsample divides a quarter of the rows, to the sample), and halving the subsample gives
one that contains the old one.

With r = (||f||_2 / N^2) / s_f the network sees f / r and (coefficients / r) / s_c, where s_f and s_c are the medians in
`..._scales.npy`: (f, K) and (c f, c K) have the same solution, so dividing both by r is a symmetry of the equations.
Solutions are not scaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np
import torch
from torch import Tensor

from .datafile import read_attributes
from .files import UsageError
from .systems import System

BLOCK = 256  # rows read at a time
FLOATS = ("float16", "float32", "float64")
#: Attributes of a file that say how it was made; the others depend on the number of its rows or on the machine.
IDENTITY = ("n", "ng", "sparse", "seed", "psi", "dtype", "crc32_fields", "crc32_tensor")


@dataclass(frozen=True)
class DataFile:
    """A data file that has been looked at, but not read."""

    path: Path
    rows: int
    size: int  # N: points a side
    attributes: Mapping[str, Any]

    def identity(self) -> dict[str, Any]:
        """What a run notes of the file: whoever trains on other data trains another run."""
        noted = {name: self.attributes[name] for name in IDENTITY if name in self.attributes}
        return {"rows": self.rows, "grid": self.size, **noted}


@dataclass(frozen=True)
class Samples:
    """n samples on the device: f and u (n, N, N), coefficients (n, J), scaled as the network sees them."""

    f: Tensor
    coefficients: Tensor
    u: Tensor

    def __len__(self) -> int:
        return len(self.f)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f, coefficients and u of some rows."""
        return self.f[rows], self.coefficients[rows], self.u[rows]


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, whatever is wrong with it said in one line.

    Raises:
        UsageError: not there, not HDF5, cut short, or unreadable.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # finished files; some file systems have no locks
            yield file
    except FileNotFoundError:
        raise UsageError(f"{path}: no such data file") from None
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:  # h5py knows all of these
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def inspect(path: Path, system: System, limits: tuple[float, float]) -> DataFile:
    """Look at a file's layout, and that it holds the system and range that are asked for.

    Files without attributes, as the published generators write them, are taken at their name.

    Raises:
        UsageError: for anything else than `fields` (n, 2, N, N) and `tensor` (n, J), or another system or range.
    """
    columns = len(system.coefficients)
    with opened(path) as file:
        for name in ("fields", "tensor"):
            if not isinstance(file.get(name), h5py.Dataset):
                raise UsageError(f"{path} is not a data file of {system.name}: it has no dataset {name!r}")
        fields, tensor = file["fields"], file["tensor"]
        rows, size = (fields.shape[0], fields.shape[-1]) if fields.shape else (0, 0)
        if not rows or fields.shape != (rows, 2, size, size) or tensor.shape != (rows, columns):
            raise UsageError(f"{path} is not a data file of {system.name}: fields {fields.shape} and tensor "
                             f"{tensor.shape} instead of (n, 2, N, N) and (n, {columns})")
        if not {fields.dtype, tensor.dtype} <= {np.dtype(name) for name in FLOATS}:
            raise UsageError(f"{path}: fields and tensor must be {', '.join(FLOATS)}, got {fields.dtype} and "
                             f"{tensor.dtype}")
        attributes = read_attributes(file)
    if attributes.get("system", system.name) != system.name:
        raise UsageError(f"{path} holds {attributes['system']}, but the configuration is one of {system.name}")
    if not np.array_equal(attributes.get("range", limits), limits):
        raise UsageError(f"{path} holds the range {attributes['range']}, but the configuration asks for {list(limits)}")
    return DataFile(path, rows, size, attributes)


def read_scales(path: Path, system: System) -> np.ndarray:
    """The vector [||f||_2 / N^2, coefficients ..., max |u|, Lx, Ly] of medians, zeros replaced by 1.

    Raises:
        UsageError: not there, or not such a vector.
    """
    try:
        scales = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such scales file") from None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    length = len(system.coefficients) + 4
    if getattr(scales, "shape", None) != (length,) or scales.dtype.kind not in "fi":
        raise UsageError(f"{path} must hold {length} numbers for {system.name}, got {getattr(scales, 'shape', '?')} of "
                         f"{getattr(scales, 'dtype', '?')}")
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise UsageError(f"{path} must hold finite numbers that are not negative, got {scales.tolist()}")
    return np.where(scales == 0, 1.0, scales)


def check_scales(file: DataFile, scales: np.ndarray, factor: float) -> None:
    """Compare scales with the medians of a file: coefficients of all rows, forcings of some.

    Raises:
        UsageError: some ratio is not within 1/factor and factor (forcings: 1.5 where that is more), so that these are
            scales of other data, or values are not finite.
    """
    with opened(file.path) as data:
        tensor = np.abs(data["tensor"][:].astype(np.float64))
        f = data["fields"][:: -(-file.rows // 64), 0].astype(np.float64)
    if not (np.isfinite(tensor).all() and np.isfinite(f).all()):
        raise UsageError(f"{file.path}: values that are not finite")
    found = [np.median(np.linalg.norm(f, axis=(1, 2))) / file.size**2, *np.median(tensor, 0)]
    limits = [max(factor, 1.5), *[factor] * (len(found) - 1)]
    if any(a and not 1 / limit < a / b < limit for a, b, limit in zip(found, scales, limits)):
        raise UsageError(f"the scales file does not belong to {file.path}: medians of its rows are "
                         f"{', '.join(f'{v:.3g}' for v in found)}, the scales file says "
                         f"{', '.join(f'{v:.3g}' for v in scales[:len(found)])}")


def load(file: DataFile, scales: np.ndarray, subsample: int = 1, device: torch.device | str = "cpu",
         dtype: torch.dtype = torch.float32) -> Samples:
    """Read every `subsample`-th row onto the device and scale it.

    Raises:
        UsageError: for values that are not finite, and forcings or solutions that are zero.
    """
    count = file.rows // subsample
    size, columns = file.size, len(scales) - 4
    f, u = (torch.empty(count, size, size, dtype=dtype, device=device) for _ in range(2))
    coefficients = torch.empty(count, columns, dtype=torch.float64)
    norms = torch.empty(count, dtype=torch.float64)
    with opened(file.path) as data:
        if data["fields"].shape != (file.rows, 2, size, size) or read_attributes(data) != file.attributes:
            raise UsageError(f"{file.path} has been replaced since this command looked at it; give the command again")
        for start in range(0, count, BLOCK):
            stop = min(start + BLOCK, count)
            rows = slice(start * subsample, (stop - 1) * subsample + 1, subsample)
            fields = torch.from_numpy(data["fields"][rows])
            coefficients[start:stop] = torch.from_numpy(data["tensor"][rows])
            both = torch.linalg.vector_norm(fields, dim=(2, 3), dtype=torch.float64)
            if not (both.isfinite().all() and coefficients[start:stop].isfinite().all()):
                raise UsageError(f"{file.path}: values that are not finite in rows {rows.start} to {rows.stop - 1}")
            if not both.all():
                raise UsageError(f"{file.path}: a forcing or solution that is zero in rows {rows.start} to "
                                 f"{rows.stop - 1}")
            norms[start:stop] = both[:, 0] / size**2
            ratio = norms[start:stop] / scales[0]
            f[start:stop] = (fields[:, 0] / ratio[:, None, None]).to(dtype)
            u[start:stop] = fields[:, 1].to(dtype)
    coefficients /= (norms / scales[0])[:, None] * torch.from_numpy(scales[1:-3])
    return Samples(f, coefficients.to(device=device, dtype=dtype), u)
