"""Data files of Darcy flow: what is to be made (Recipe), and the HDF5 files that hold it.

    signs (n, ceil(N^2 / 8))  uint8    sign bits of the rows, packed; gzip
    u     (n, S, S)           float32  solutions at every `sub`-th node, S = (N - 1)/sub + 1

Root attributes are the arguments of scripts/generate_darcy.py by their flags (N, n_samples, r, f, tau, alpha, a_low,
grf, sub, seed, split, tol), generator, residual (largest relative residual of the 5-point equations), crc32_signs and
crc32_u (of the bytes in row order) and complete. darcy_N421_n1000_r4_f1_seed0.h5 holds training fields,
darcy_N421_n200_r4_f1_test.h5 test fields; arguments that are not the default stand in the name.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .darcy import GRF, SPLITS, TOL
from .fields import Fields
from .files import UsageError, atomic_write, warn_once

GENERATOR = "darcy 1"
READ_BYTES = 1 << 24  # at once


@dataclass(frozen=True)
class Recipe:
    """Arguments of a data set, whatever the number of its rows.

    Attributes:
        size: N, nodes a side, boundary included.
        r: contrast, high/low.
        f: the constant right-hand side.
        tau, alpha, grf: of the random field (darcy.sign_fields).
        low: the smaller value of a.
        stride: of the nodes at which u is kept.
        seed: of the training fields. The test fields have a stream of their own, without a seed.
        split: train or test.
        tol: largest relative residual.
    """

    size: int = 421
    r: float = 4.0
    f: float = 1.0
    tau: float = 3.0
    alpha: float = 2.0
    low: float = 3.0
    grf: str = "periodic"
    stride: int = 7
    seed: int = 0
    split: str = "train"
    tol: float = TOL

    def __post_init__(self) -> None:
        """Numbers of one kind, so that 4 and 4.0 are the same recipe."""
        for name in ("r", "f", "tau", "alpha", "low", "tol"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.split == "test":
            object.__setattr__(self, "seed", 0)

    @property
    def points(self) -> int:
        """S, points a side of u."""
        return (self.size - 1) // self.stride + 1

    def check(self) -> None:
        """Raise UsageError, naming the flag, for what is not allowed."""
        def need(holds: bool, flag: str, allowed: str, value: object) -> None:
            if not holds:
                raise UsageError(f"--{flag} must be {allowed}, got {value}")

        need(5 <= self.size <= 4097, "N", "from 5 to 4097", self.size)
        need(self.stride >= 1 and (self.size - 1) % self.stride == 0 and self.points >= 3, "sub",
             f"a divisor of N - 1 = {self.size - 1}, at most {(self.size - 1) // 2}", self.stride)
        need(1 <= self.r <= 1e4, "r", "from 1 to 1e4", self.r)
        need(0 < abs(self.f) <= 1e6, "f", "from -1e6 to 1e6 and not 0", self.f)
        need(0 < self.tau <= 1e3, "tau", "above 0 and at most 1e3", self.tau)
        need(0 < self.alpha <= 10, "alpha", "above 0 and at most 10", self.alpha)
        need(1e-6 <= self.low <= 1e6, "a_low", "from 1e-6 to 1e6", self.low)
        need(self.grf in GRF, "grf", f"one of {', '.join(GRF)}", self.grf)
        need(self.split in SPLITS, "split", f"one of {', '.join(SPLITS)}", self.split)
        need(0 <= self.seed < 2**63, "seed", "from 0 to 2^63 - 1", self.seed)
        least = max(2e-12, 5e-16 * (self.size - 1) ** 2 * max(1, self.r / 1000))  # what rounding leaves, and some room
        need(least <= self.tol <= 1e-4, "tol", f"from {least:.1e} (with N = {self.size}, r = {self.r:g}) to 1e-4",
             self.tol)

    def identity(self) -> dict[str, Any]:
        """The values by their flags: what a run notes of its data, and what files are compared by."""
        return {"N": self.size, "r": self.r, "f": self.f, "tau": self.tau, "alpha": self.alpha, "a_low": self.low,
                "grf": self.grf, "sub": self.stride, "seed": self.seed, "split": self.split, "tol": self.tol,
                "generator": GENERATOR}

    def stem(self, rows: int | str, full: bool = False) -> str:
        """File name without its ending, as published; `full`: of a file that always has u at all nodes."""
        name = f"darcy_N{self.size}_n{rows}_r{shortest(self.r)}_f{shortest(self.f)}"
        if (self.tau, self.alpha, self.low) != (3, 2, 3):
            name += f"_tau{shortest(self.tau)}_a{shortest(self.alpha)}_al{shortest(self.low)}"
        name += f"_{self.grf}" if self.grf != "periodic" else ""
        name += f"_sub{self.stride}" if self.stride != 7 and not full else ""
        return name + ("_test" if self.split == "test" else f"_seed{self.seed}")


def shortest(value: float) -> str:
    """A number as short as it can be told from others, for file names: 4, 1.5, m2, 1em05."""
    return (str(int(value)) if value == int(value) else repr(value)).replace("-", "m")


# ---- files -------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path, recipe: Recipe) -> Iterator[h5py.File]:
    """A finished file, after a look at its layout and attributes.

    Raises:
        UsageError: not there, not of this generator, damaged, or made with other arguments.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # finished files; some file systems have no locks
            found = {name: getattr(value, "item", lambda v=value: v)() for name, value in file.attrs.items()}
            if not found.get("complete") or set(file) != {"signs", "u"}:
                raise UsageError(f"{path} was not made by generate_darcy.py")
            changes = [f"{name} {found.get(name)} -> {value}" for name, value in recipe.identity().items()
                       if found.get(name) != value]
            if changes:
                raise UsageError(f"{path} holds data made with other arguments: {', '.join(changes)}")
            rows = found["n_samples"]
            shapes = {"signs": (rows, (recipe.size**2 + 7) // 8), "u": (rows, recipe.points, recipe.points)}
            types = {"signs": np.uint8, "u": np.float32}
            for name, dataset in file.items():
                if dataset.shape != shapes[name] or dataset.dtype != types[name]:
                    raise UsageError(f"{path}: `{name}` has another form: {dataset.shape}, {dataset.dtype}")
            yield file
    except FileNotFoundError:
        raise UsageError(f"{path}: no such data file") from None
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {str(error).strip().partition(chr(10))[0]}") from error


def rows_of(path: Path, recipe: Recipe) -> int:
    """Rows of a finished file. Raises UsageError as `read` does, without a look at the numbers."""
    with _opened(path, recipe) as file:
        return len(file["u"])


def load(path: Path, recipe: Recipe, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Sign bits and u of the first n rows, and the largest residual of all rows.

    Raises:
        UsageError: as `read`.
    """
    with _opened(path, recipe) as file:
        if len(file["u"]) < n:
            raise UsageError(f"{path} holds {len(file['u'])} samples, {n} are asked for")
        arrays = {}
        for name, dataset in file.items():
            kept, crc = np.empty((n, *dataset.shape[1:]), dataset.dtype), 0
            step = max(1, READ_BYTES // kept[:1].nbytes)
            for i in range(0, len(dataset), step):
                block = dataset[i:i + step]
                crc = zlib.crc32(block, crc)
                kept[i:i + step] = block[:max(0, n - i)]
            if crc != file.attrs[f"crc32_{name}"]:
                raise UsageError(f"{path} is damaged: the checksum of `{name}` does not fit; make it "
                                 f"again with generate_darcy.py --force")
            arrays[name] = kept
        residual = float(file.attrs["residual"])
    if not np.isfinite(arrays["u"]).all():
        raise UsageError(f"{path} is damaged: `u` is not finite; make it again with generate_darcy.py --force")
    return arrays["signs"], arrays["u"], residual


def read(path: Path, recipe: Recipe, n: int) -> Fields:
    """The first n fields of a finished file.

    Raises:
        UsageError: naming the file, where it is not there, has too few rows, was made with other arguments or not by
            this generator, or does not have its checksums.
    """
    bits, u, _ = load(path, recipe, n)
    return Fields(bits, recipe.size, recipe.low, recipe.low * recipe.r, recipe.f, u, recipe.stride, path,
                  recipe.identity())


def finished(recipe: Recipe, folder: Path) -> list[tuple[int, Path]]:
    """(rows, path) of all finished files of a recipe, the smallest first; what cannot be read is passed over."""
    found = []
    for path in folder.glob(recipe.stem("*") + ".h5"):
        try:
            found.append((rows_of(path, recipe), path))
        except UsageError as error:
            warn_once(str(error))
    return sorted(found)


def find(recipe: Recipe, n: int, folder: Path) -> Path | None:
    """The smallest finished file of a recipe with at least n rows."""
    return next((path for rows, path in finished(recipe, folder) if rows >= n), None)


def write(path: Path, recipe: Recipe, bits: np.ndarray, u: np.ndarray, residual: float) -> None:
    """Write a finished file. Raises OSError.

    HDF5 lays it out in memory: neither a kill nor a full disk meets it at work, which would leave a broken file.
    """
    with h5py.File(path, "w", driver="core", backing_store=False) as file:
        file.create_dataset("signs", data=bits, chunks=(min(len(bits), 16), bits.shape[1]), compression="gzip")
        file.create_dataset("u", data=u)
        crc = {f"crc32_{name}": zlib.crc32(np.ascontiguousarray(x)) for name, x in (("signs", bits), ("u", u))}
        file.attrs.update({**recipe.identity(), "n_samples": len(u), "residual": residual, **crc, "complete": True})
        file.flush()
        image = file.id.get_file_image()
    atomic_write(path, lambda target: target.write(image))


def bytes_needed(recipe: Recipe, rows: int, full: bool = False) -> int:
    """Bytes of a file and of the pieces of it that lie beside it while it grows; `full` as in `stem`."""
    u = 8 * recipe.size**2 if full else 4 * recipe.points**2
    return math.ceil(2 * rows * (u + recipe.size**2 / 8))
