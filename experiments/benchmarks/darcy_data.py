#!/usr/bin/env python3
"""Seconds per sample of the Darcy data at N = 421: sparse LU as published, against PINO/.

The plain side assembles the 5-point matrix of each field with scipy.sparse and solves it with spsolve and its default
ordering, one field after the other. Ours is pino.darcy.solve (conjugate gradients, fast sine transforms) at its default
tolerance on the same fields, with files: the whole command, which draws, solves and writes. Both sides take turns;
medians over the fields. The error is that of ours against the plain side, relative, in the Euclidean norm (the plain
side itself is good to about 1e-12). On a GPU all fields of ours are solved at once.

    python experiments/benchmarks/darcy_data.py                     # about 2 minutes
    python experiments/benchmarks/darcy_data.py --fields 3 --threads 2
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import scipy
import scipy.sparse as sparse
import torch
from scipy.sparse.linalg import spsolve

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "PINO"))
from pino.cli import find_device
from pino.darcy import sign_fields, solve
from pino.generate import main as generate
from pino.session import keep_freed_memory

CONTRASTS, TRAIN, TEST = (1, 2, 3, 4, 5, 6, 8, 10), 1000, 200  # of the paper


def plain(a: np.ndarray) -> np.ndarray:
    """Solution on the inner nodes, (N-2, N-2)."""
    size = len(a) - 2
    x, y = (a[1:, 1:-1] + a[:-1, 1:-1]) / 2, (a[1:-1, 1:] + a[1:-1, :-1]) / 2  # faces
    node = np.arange(size * size).reshape(size, size)
    rows = [node, node[1:], node[:-1], node[:, 1:], node[:, :-1]]
    columns = [node, node[:-1], node[1:], node[:, :-1], node[:, 1:]]
    values = [x[1:] + x[:-1] + y[:, 1:] + y[:, :-1], -x[1:-1], -x[1:-1], -y[:, 1:-1], -y[:, 1:-1]]
    rows, columns, values = (np.concatenate([part.ravel() for part in parts]) for parts in (rows, columns, values))
    matrix = sparse.coo_matrix((values * (len(a) - 1) ** 2, (rows, columns))).tocsc()
    return spsolve(matrix, np.ones(size * size)).reshape(size, size)


def ours(a: torch.Tensor) -> tuple[float, np.ndarray]:
    """Seconds and solution on all nodes."""
    start = time.perf_counter()
    u = solve(a).u.cpu().numpy()
    return time.perf_counter() - start, u


def compare(r: float, signs: np.ndarray, device: torch.device, plain_fields: int) -> tuple[float, float, float]:
    """Seconds a sample of the plain side and of ours, and the largest error."""
    slow, fast, errors = [], [], []
    a = torch.where(torch.from_numpy(signs), 3.0 * r, 3.0).double()
    ours(a[:1].to(device))
    if device.type != "cpu":
        fast = [ours(a.to(device))[0] / len(a) for _ in range(3)]
    for i in range(len(a)):
        seconds, u = ours(a[i:i + 1].to(device))
        fast += [seconds] if device.type == "cpu" else []
        if i < plain_fields:
            start = time.perf_counter()
            expected = plain(a[i].numpy())
            slow.append(time.perf_counter() - start)
            errors.append(np.linalg.norm(u[0, 1:-1, 1:-1] - expected) / np.linalg.norm(expected))
    return statistics.median(slow or [np.nan]), statistics.median(fast), max(errors, default=np.nan)


def with_files(r: float, samples: int, device: torch.device) -> float:
    """Seconds a sample of the whole command; signs are drawn for the first contrast only, and kept."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        start = time.perf_counter()
        if generate(["--r", str(r), "--n_samples", str(samples), "--n_test", "0", "--outdir", folder, "--device",
                     str(device)]):
            raise RuntimeError("the generator failed; run PINO/scripts/generate_darcy.py to see why")
        return (time.perf_counter() - start) / samples


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of ours; the plain side has one")
    parser.add_argument("--fields", type=int, default=5, help="solved by both sides for r = 4 and 10")
    parser.add_argument("--samples", type=int, help="of the command, for every r; 8, or 256 on a GPU")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device = find_device(args.device)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    samples = args.samples or (8 if device.type == "cpu" else 256)
    signs = sign_fields(range(max(args.fields, 64 if device.type != "cpu" else 0)), 0, 421)
    print(f"torch {torch.__version__}, scipy {scipy.__version__}, {device}, N = 421, {args.threads} threads of ours")
    print(f"{'r':>4} {'plain, s':>10} {'ours, s':>10} {'ratio':>7} {'error':>9} {'with files, s':>14} "
          f"{'samples/s':>10}")
    total = 0.0
    for r in CONTRASTS:
        line = f"{r:>4} {'':>39}"
        if r in (4, 10):
            slow, fast, error = compare(r, signs, device, args.fields)
            line = f"{r:>4} {slow:>10.3f} {fast:>10.4f} {slow / fast:>7.1f} {error:>9.1e}"
        whole = with_files(r, samples, device)
        total += whole * (TRAIN + TEST)
        print(f"{line} {whole:>14.4f} {1 / whole:>10.1f}", flush=True)
    print(f"{TRAIN} + {TEST} fields at {len(CONTRASTS)} contrasts, at these rates: {total / 60:.1f} minutes")


if __name__ == "__main__":
    main()
