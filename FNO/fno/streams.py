"""Random numbers of the data sets: each sample has its own, whatever the range, the sizes and the chunking.

A sample is named by (seed, system, split, block, index in the block). A file is four equal consecutive blocks (the last
takes the remainder), in which a fraction VF = 0.2, 0.4, 0.6, 0.8 of the Gaussians is inactive. The uniforms of GROUP
consecutive samples of a block come from one Philox generator, one row a sample, always drawn whole. So the forcing, the
angles and the quantiles of the coefficients are the same in every range (common random numbers), the splits are
independent, and a larger file begins, block by block, with the samples of a smaller one.
"""

from collections.abc import Iterator

import numpy as np

VF = (0.2, 0.4, 0.6, 0.8)
SPLITS = ("train", "val", "test")
GROUP = 64
_STREAMS = (*SPLITS, "table")  # `table`: the samples behind the lambda table of advection-diffusion


def blocks(rows: int) -> Iterator[tuple[int, int, int]]:
    """(block, first row, number of rows) of the four blocks of a file."""
    quarter = rows // len(VF)
    for block in range(len(VF)):
        start = block * quarter
        yield block, start, quarter if block < len(VF) - 1 else rows - start


def uniforms(seed: int, system: int, split: str, block: int, indices: np.ndarray, columns: int,
             attempt: int = 0) -> np.ndarray:
    """U[0, 1) of the samples `indices` of a block, (len(indices), columns), float64.

    `attempt` numbers the redraws of a sample that was rejected. With fewer columns the numbers are others.
    """
    rows = np.empty((len(indices), columns))
    for group in np.unique(indices // GROUP):
        key = (system, _STREAMS.index(split), block, int(group), attempt)
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))
        ours = indices // GROUP == group
        rows[ours] = generator.random((GROUP, columns))[indices[ours] % GROUP]
    return rows


def amplitudes(rows: np.ndarray, ng: int, block: int, sparse: bool = True) -> np.ndarray:
    """Amplitudes p of the Gaussians, (samples, ng), from 2 ng + 1 uniforms a sample.

    Sparse: p = 0 with probability VF[block], else U(1e-3, 1); where all are zero, one at random is not.
    Not sparse (as published without --sparse): the inactive ones are U(0, 1) instead of 0.
    """
    active, size = rows[:, :ng] >= VF[block], rows[:, ng:2 * ng]
    none = np.flatnonzero(~active.any(1))
    active[none, (rows[none, 2 * ng] * ng).astype(int)] = True
    return np.where(active, 1e-3 + (1 - 1e-3) * size, 0.0 if sparse else size)
