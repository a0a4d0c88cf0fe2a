"""Where training and test fields come from: the data folder, filled where files are missing, or benchmark files.

What is read is kept, as the seeds of a cell share their data.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pino.fields import Fields
from pino.generate import make
from pino.matlab import read_benchmark
from pino.session import Signals
from pino.store import Recipe, find, read


@dataclass(frozen=True)
class Source:
    """Generated fields in a folder, or (`benchmark`) those of the .mat files there.

    Attributes:
        recipe: of the training fields, at any contrast. Of benchmark files only size and stride mean something.
        tests: number of test fields.
    """

    recipe: Recipe
    folder: Path
    tests: int
    benchmark: bool = False

    @property
    def size(self) -> int:
        """N, nodes a side."""
        return self.recipe.size

    @property
    def stride(self) -> int:
        """Of the solutions, in nodes."""
        return self.recipe.stride

    def prepare(self, contrasts: Sequence[float], n: int, rows: int, device: torch.device,
                stages: Sequence[float] = ()) -> None:
        """Make the files that are missing: where there is none with n training fields, one with `rows` of them.

        `stages` are contrasts that need training fields only. Of benchmark files none are made.

        Raises:
            UsageError: for files that cannot be used or made.
            Stopped: when a signal asked to stop.
        """
        wanted = [(split, contrast, *counts) for contrast in contrasts
                  for split, counts in (("train", (n, rows)), ("test", (self.tests, self.tests)))]
        wanted += [("train", contrast, n, rows) for contrast in stages]
        missing = [(self._at(split, contrast), made) for split, contrast, count, made in wanted
                   if not self.benchmark and find(self._at(split, contrast), count, self.folder) is None]
        for k, (recipe, made) in enumerate(missing, 1):
            with Signals() as signals:
                make(recipe, made, self.folder, device, signals)
            if k == 1 and len(missing) > 1:
                print(f"{len(missing) - 1} more data files with {sum(made for _, made in missing[1:])} solutions are "
                      f"missing", file=sys.stderr)

    def identity(self, split: str, contrast: float, count: int | None = None) -> dict[str, Any]:
        """What a run notes of its fields; generated files need not be there yet."""
        if self.benchmark:
            return dict(self.fields(split, contrast, count).identity)
        return self._at(split, contrast).identity()

    def fields(self, split: str, contrast: float, count: int | None = None) -> Fields:
        """The first `count` fields of a split, all test fields by default."""
        count = count or self.tests
        if self.benchmark:
            return _benchmark(self.folder, split, contrast, count, self.stride)
        return _generated(self.folder, self._at(split, contrast), count)

    def _at(self, split: str, contrast: float) -> Recipe:
        return replace(self.recipe, split=split, r=contrast)


@lru_cache(maxsize=16)
def _benchmark(folder: Path, split: str, contrast: float, count: int, stride: int) -> Fields:
    return read_benchmark(folder, count, split, contrast, stride)


@lru_cache(maxsize=16)
def _generated(folder: Path, recipe: Recipe, count: int) -> Fields:
    return read(find(recipe, count, folder), recipe, count)
