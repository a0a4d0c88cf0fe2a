"""Samples (f, coefficients, u) in chunks: uniforms -> amplitudes -> forcing -> coefficients -> solution -> residual.

A chunk is aligned within its block and always computed whole, so that a sample does not depend, to the last bit, on
the size of its file. On a CPU a chunk stays in the cache of a core (16 samples at N = 128), and every core computes its
own.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fno.files import UsageError
from fno.streams import amplitudes, blocks, uniforms
from fno.systems import Grid, System, residual, solve

CHUNK = {"cpu": (1 << 18, 64), "cuda": (1 << 23, 512)}  # by device: points and samples at most
ATTEMPTS = 1000  # draws of a sample before its range is given up


@dataclass(frozen=True)
class Recipe:
    """What a sample depends on beside its split, block and index, and where it is computed."""

    system: System
    bounds: tuple[float, float]
    n: int = 128
    ng: int = 144
    sparse: bool = True
    seed: int = 0
    psi: str = "table"
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True)
class Chunk:
    """Rows of a file: datasets by name, (rows, ...) float32, and their largest relative residual."""

    first: int
    arrays: dict[str, np.ndarray]
    residual: float


class Sampler:
    """Computes the samples of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        """Prepare the grid."""
        self.recipe = recipe
        self.grid = Grid(recipe.n, recipe.ng, recipe.dtype, recipe.device)
        points, samples = CHUNK[recipe.device.type]
        self.size = max(1, min(samples, points // recipe.n**2))

    def _draw(self, split: str, block: int, indices: np.ndarray, attempt: int) -> list[Tensor]:
        """Fields (B, 2, N, N) float32, tensor, residual (B,), max|u| (B,) and perhaps other, of some samples."""
        r, grid = self.recipe, self.grid
        c = r.system.columns
        rows = uniforms(r.seed, r.system.key, split, block, indices, c + 2 * r.ng + 1, attempt)
        p = torch.from_numpy(amplitudes(rows[:, c:], r.ng, block, r.sparse)).to(r.device, r.dtype)
        f = grid.forcing(p, r.system.zero_mean)
        f_hat = grid.transform(f)
        tensor, other = r.system.tensor(torch.from_numpy(rows[:, :c]).to(r.device), r.bounds, f_hat, grid, r.psi)
        exact = tensor.to(r.dtype)
        u = solve(r.system, f_hat, exact, grid)
        fields = torch.empty(len(u), 2, r.n, r.n, device=r.device)
        fields[:, 0], fields[:, 1] = f, u
        largest = torch.maximum(u.amax((1, 2)), -u.amin((1, 2)))
        out = [fields, tensor.float(), residual(r.system, f_hat, u, exact, grid), largest]
        return out if other is None else [*out, other.float()]

    def compute(self, split: str, block: int, indices: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Datasets by name and relative residuals of the samples `indices` of a block.

        Raises:
            UsageError: where ATTEMPTS draws of some sample all exceed the system's `largest` |u|.
        """
        system = self.recipe.system
        out = self._draw(split, block, indices, 0)
        for attempt in range(1, ATTEMPTS + 1):
            again = torch.nonzero(out[3] > system.largest).flatten()
            if not len(again):
                break
            if attempt == ATTEMPTS:
                flags = " ".join(f"--{name} {x:g}" for name, x in zip(system.flags, self.recipe.bounds))
                raise UsageError(f"{flags}: {ATTEMPTS} draws of a sample all have max|u| > {system.largest:g}; "
                                 "take a wider range")
            for whole, part in zip(out, self._draw(split, block, indices[again.cpu().numpy()], attempt)):
                whole[again] = part
        fields, tensor, error, _, *other = (x.cpu().numpy() for x in out)
        return dict(zip(system.datasets, [fields, tensor, *other])), error

    def _chunk(self, split: str, block: int, start: int, first: int, rows: int) -> Chunk:
        arrays, error = self.compute(split, block, np.arange(first, first + self.size))
        return Chunk(start + first, {name: x[:rows] for name, x in arrays.items()}, float(error[:rows].max()))

    def chunks(self, split: str, rows: int, first: int = 0) -> Iterator[Chunk]:
        """The rows of a file from row `first` on, in order; computed ahead by one thread a core."""
        tasks = ((block, start, i, min(self.size, count - i)) for block, start, count in blocks(rows)
                 for i in range(0, count, self.size) if start + min(i + self.size, count) > first)
        threads, waiting = torch.get_num_threads(), deque()
        workers = threads if self.recipe.device.type == "cpu" else 1
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        try:
            for block, start, i, count in tasks:
                waiting.append(pool.submit(self._chunk, split, block, start, i, count))
                if len(waiting) > 2 * workers:
                    yield _from(waiting.popleft().result(), first)
            while waiting:
                yield _from(waiting.popleft().result(), first)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # the workers' 1 is also the default of threads to come


def _from(chunk: Chunk, first: int) -> Chunk:
    """The chunk without its rows before `first`."""
    skip = max(0, first - chunk.first)
    if not skip:
        return chunk
    return Chunk(chunk.first + skip, {name: x[skip:] for name, x in chunk.arrays.items()}, chunk.residual)
