#!/usr/bin/env python3
"""Time of a PINODE sweep over 1/b x T: one cell after another in the plain way (node_plain.py), against NeuralODE/.

Adam for 60 epochs of 13 mini-batches, and L-BFGS on the loss / dt^2 in calls of up to 100 iterations until 200, or
1,000, are made or no step is possible; float32, seed 0. L-BFGS makes more iterations here than in the plain way, whose
loss, with its constant of D/2, resolves no changes below it that ours still does: so the ratio per iteration counts.
Both sides generate their data and compute the published five rollouts; ours writes its run folders as well. Ours is
timed before and after the plain cells, and the mean taken, so that a machine that slows down slows both.

    python experiments/benchmarks/node_sweep.py                  # 9 x 8 cells: about 8 minutes
    python experiments/benchmarks/node_sweep.py --inv_b 1 8 --horizons 2 20 --optimizers adam
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from node_plain import DT, Cell, evaluate, train_adam, train_lbfgs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "NeuralODE"))
from node.arguments import parse
from node.grid import HORIZONS, INV_B
from node.matrices import read
from node.strategies.batches import LBFGS_STEP
from node.train import train

EPOCHS, ITERATIONS, TOLERANCE = 60, {"lbfgs200": 200, "lbfgs1000": 1000}, 1e-12

Measured = tuple[float, int, float]  # seconds, updates or iterations in all, median training loss


def plain(optimizer: str, cells: Sequence[tuple[float, float]]) -> Measured:
    """One cell after another, on one thread, which is fastest for so small a network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start, iterations, losses = time.perf_counter(), 0, []
    for k, (inv_b, horizon) in enumerate(cells):
        cell = Cell(inv_b, horizon)
        if optimizer == "adam":
            train_adam(cell, EPOCHS)
            iterations += 13 * EPOCHS
        else:
            iterations += train_lbfgs(cell, ITERATIONS[optimizer], DT**-2, tolerance_change=TOLERANCE,
                                      a_call=LBFGS_STEP)[0]
        losses.append(evaluate(cell)["train_mse"])
        print(f"\rplain {optimizer}: {k + 1} of {len(cells)} cells", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    torch.set_num_threads(threads)
    return time.perf_counter() - start, iterations, statistics.median(losses)


def ours(optimizer: str, inv_b: Sequence[float], horizons: Sequence[float]) -> Measured:
    """All cells side by side, into run folders."""
    flags = ["--optimizer", "Adam", "--epochs", str(EPOCHS)]
    if optimizer != "adam":
        flags = ["--optimizer", "LBFGS", "--lbfgs-max-iter", str(ITERATIONS[optimizer]), "--lbfgs-tolerance-change",
                 str(TOLERANCE)]
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        start = time.perf_counter()
        sweep = parse([*flags, "--physics-mode", "pinn", "--seeds", "0", "--device", "cpu", "--out-dir", folder,
                       "--inv-b-values", *map(str, inv_b), "--horizon-values", *map(str, horizons)])
        train(sweep.settings, [sweep.settings.run(*cell) for cell in sweep.cells])
        seconds = time.perf_counter() - start
        results = read(sweep.settings.folder / "pendulum" / sweep.settings.strategy)
    return seconds, sum(r["iterations"] for r in results), statistics.median(r["train_loss"] for r in results)


def compare(optimizer: str, inv_b: Sequence[float], horizons: Sequence[float]) -> str:
    """A line of the table."""
    cells = [(value, horizon) for horizon in horizons for value in inv_b]
    run: Callable[[], Measured] = lambda: ours(optimizer, inv_b, horizons)  # noqa: E731
    before, theirs, after = run(), plain(optimizer, cells), run()
    seconds = (before[0] + after[0]) / 2
    each = [1e3 * theirs[0] / theirs[1], 1e3 * seconds / before[1]]
    return (f"{optimizer:>9} {theirs[0]:>9.1f} {seconds:>7.1f} {theirs[0] / seconds:>6.1f} "
            f"{theirs[1]:>9} {before[1]:>9} {each[0]:>9.3f} {each[1]:>9.3f} {each[0] / each[1]:>6.1f} "
            f"{theirs[2]:>10.2e} {before[2]:>9.2e}")


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inv_b", type=float, nargs="+", default=INV_B, help="1/b")
    parser.add_argument("--horizons", type=float, nargs="+", default=HORIZONS, help="T")
    parser.add_argument("--optimizers", nargs="+", choices=["adam", *ITERATIONS],
                        default=["adam", *ITERATIONS])
    args = parser.parse_args()
    ours("adam", [8], [0.5])  # what is imported and compiled at the first use
    print(f"torch {torch.__version__}, CPU, one thread; {len(args.horizons)} x {len(args.inv_b)} cells; plain / ours")
    print(f"{'':>9} {'seconds':>17} {'ratio':>6} {'updates or iterations':>19} {'ms each':>16} {'ratio':>9} "
          f"{'median train_mse':>17}")
    for optimizer in args.optimizers:
        print(compare(optimizer, args.inv_b, args.horizons), flush=True)


if __name__ == "__main__":
    main()
