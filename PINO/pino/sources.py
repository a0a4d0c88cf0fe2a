"""Where training and test fields come from: the data folder, filled where files are missing, or benchmark files.

What is read is kept, as the seeds of a cell share their data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

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

        `stages` are contrasts that need training fields only. Benchmark files are looked at.

        Raises:
            UsageError: for files that cannot be used or made.
            Stopped: when a signal asked to stop.
        """
        wanted = [(split, contrast, *counts) for contrast in contrasts
                  for split, counts in (("train", (n, rows)), ("test", (self.tests, self.tests)))]
        if self.benchmark:
            for split, contrast, count, _ in wanted:
                self.fields(split, contrast, count)
            return
        for split, contrast, count, made in wanted + [("train", contrast, n, rows) for contrast in stages]:
            if find(self._at(split, contrast), count, self.folder) is None:
                with Signals() as signals:
                    make(self._at(split, contrast), made, self.folder, device, signals)

    def fields(self, split: str, contrast: float, count: int | None = None) -> Fields:
        """The first `count` fields of a split, all test fields by default."""
        return _fields(self, split, contrast, count or self.tests)

    def _at(self, split: str, contrast: float) -> Recipe:
        return replace(self.recipe, split=split, r=contrast)


@lru_cache(maxsize=8)
def _fields(source: Source, split: str, contrast: float, count: int) -> Fields:
    if source.benchmark:
        return read_benchmark(source.folder, count, split, contrast, source.stride)
    recipe = source._at(split, contrast)
    return read(find(recipe, count, source.folder), recipe, count)
