#!/usr/bin/env python3
"""Samples per second of the FNO data generators: a loop over samples as published, against FNO/.

The loop (`plain`) follows the published procedure: for each sample 144 Gaussians on the full grid, kept in a list and
summed; meshgrids of frequencies and complex128 transforms; for advection-diffusion also the two tables of lambda read
from disk, and Psi from four inverse transforms. It uses one core, holds its float64 arrays and writes them at the end.
Ours is timed computing alone (the arrays are dropped), and with all that the command does: files, checksums, scales.
Both sides take turns, and glibc keeps freed memory for both (session.keep_freed_memory), which the loop gains by most;
medians. The last three columns count the time of the CPU instead of that of the clock, which other work disturbs.

    python experiments/benchmarks/fno_data.py                      # about 3 minutes
    python experiments/benchmarks/fno_data.py --repeats 3 --plain 16 --ours 512 --threads 1
"""

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "FNO"))
from fno.generate import generate
from fno.samples import Recipe, Sampler
from fno.session import keep_freed_memory
from fno.systems import SYSTEMS, lambda_table

N, RANGES = 128, {"poisson": (1.0, 2.5), "advdiff": (0.2, 0.4)}


def frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Kx, ky on the full spectrum, (N, N), Nyquist +N/2."""
    line = np.concatenate([np.arange(N // 2 + 1), np.arange(1 - N // 2, 0)])
    return np.meshgrid(line, line)


def forcing(random: np.random.RandomState, vf: float) -> np.ndarray:
    """One forcing, (N, N), Gaussian by Gaussian."""
    x, y = np.meshgrid(np.arange(N) / N, np.arange(N) / N)
    sigma, bumps = 1 / 32, []
    for i in range(12):
        for j in range(12):
            cx, cy = 0.5 + (j - 5.5) * 2 * sigma, 0.5 + (i - 5.5) * 2 * sigma
            bumps.append(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)))
    g = np.zeros((N, N))
    for bump in bumps:
        g += (random.uniform(1e-3, 1) if random.uniform() > vf else 0.0) * bump
    f = g / g.max()
    return f - f.mean()


def plain_sample(system: str, random: np.random.RandomState, vf: float, tables: Path) -> list[np.ndarray]:
    """F, u, coefficients and, for advection-diffusion, Psi of one sample."""
    low, high = RANGES[system]
    e = random.uniform(low, high) if system == "poisson" else random.uniform(1, 5)
    t = random.uniform(0, 2 * np.pi)
    k11, k22 = np.cos(t) ** 2 + e * np.sin(t) ** 2, np.sin(t) ** 2 + e * np.cos(t) ** 2
    tensor = 0.01 * np.array([k11, k22, (e - 1) * np.sin(t) * np.cos(t)])
    if system == "advdiff":
        angle, target = random.uniform(0, 2 * np.pi), random.uniform(low, high)
        lam = np.load(tables / "lambda.npy")[np.abs(np.load(tables / "ads.npy").mean(1) - target).argmin()]
        v = lam * np.array([np.cos(angle), np.sin(angle)])
        tensor = (1 - lam) * tensor
    f = forcing(random, vf)
    kx, ky = frequencies()
    symbol = 4 * np.pi**2 * (tensor[0] * kx**2 + tensor[1] * ky**2 + 2 * tensor[2] * kx * ky)
    if system == "advdiff":
        symbol = symbol + 2j * np.pi * (v[0] * kx + v[1] * ky)
    symbol[0, 0] = 1
    u_hat = np.fft.fft2(f) / symbol
    u_hat[0, 0] = 0
    u = np.fft.ifft2(u_hat).real
    u -= u.mean()
    if system == "poisson":
        return [np.stack([f, u]), tensor]
    kx, ky = frequencies()
    u_hat = np.fft.fft2(u)
    x, y = np.fft.ifft2(2j * np.pi * kx * u_hat).real, np.fft.ifft2(2j * np.pi * ky * u_hat).real
    flux_x, flux_y = np.fft.fft2(tensor[0] * x + tensor[2] * y), np.fft.fft2(tensor[2] * x + tensor[1] * y)
    divergence = np.fft.ifft2(2j * np.pi * (kx * flux_x + ky * flux_y)).real
    psi = np.linalg.norm(v[0] * x + v[1] * y) / np.linalg.norm(divergence)
    return [np.stack([f, u]), np.concatenate([tensor, v]), np.array([psi])]


Seconds = tuple[float, float, float]  # a sample: computing, with files, with files by the clock of the CPU


def plain(system: str, samples: int, tables: Path) -> Seconds:
    """Time of the loop over samples."""
    random, start, cpu = np.random.RandomState(0), time.perf_counter(), time.process_time()
    drawn = [plain_sample(system, random, 0.2 + 0.2 * (4 * i // samples), tables) for i in range(samples)]
    computed = time.perf_counter() - start
    with h5py.File(tables / "plain.h5", "w") as file:
        for name, values in zip(("fields", "tensor", "other"), zip(*drawn)):
            file.create_dataset(name, data=np.stack(values), dtype="<f4")
    return computed / samples, (time.perf_counter() - start) / samples, (time.process_time() - cpu) / samples


def ours(system: str, samples: int, folder: Path) -> Seconds:
    """The same for FNO/ with as many threads as torch is set to."""
    sampler = Sampler(Recipe(SYSTEMS[system], RANGES[system]))
    start = time.perf_counter()
    for _ in sampler.chunks("train", samples):
        pass
    computed = time.perf_counter() - start
    flags = [word for name, value in zip(SYSTEMS[system].flags, RANGES[system]) for word in (f"--{name}", str(value))]
    start, cpu = time.perf_counter(), time.process_time()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        generate(system, [*flags, "--ntrain", str(samples - 32), "--nval", "16", "--ntest", "16", "--force", "--device",
                          "cpu", "--datapath", str(folder)])
    return computed / samples, (time.perf_counter() - start) / samples, (time.process_time() - cpu) / samples


def compare(system: str, threads: int, args: argparse.Namespace, folder: Path) -> str:
    """A line of the table."""
    torch.set_num_threads(threads)
    ours(system, 256, folder)  # tables, plans of the transforms
    theirs, mine = [], []
    for _ in range(args.repeats):
        theirs.append(plain(system, args.plain, folder))
        mine.append(ours(system, args.ours, folder))
    line = f"{system:>9} {threads:>8}"
    for slow, fast in zip(zip(*theirs), zip(*mine)):
        slow, fast = statistics.median(slow), statistics.median(fast)
        line += f" {1 / slow:>10.1f} {1 / fast:>8.0f} {slow / fast:>7.1f}"
    return line


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of ours; the plain loop has one")
    parser.add_argument("--plain", type=int, default=48, help="samples of the plain loop at a time")
    parser.add_argument("--ours", type=int, default=2048, help="samples of ours at a time")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()
    print(f"torch {torch.__version__}, numpy {np.__version__}, CPU, float64, {N} x {N}; samples per second, medians of "
          f"{args.repeats}")
    print(f"{'':>9} {'':>8} {'computing':^27} {'with files':^27} {'with files, CPU':^27}")
    print(f"{'':>9} {'threads':>8}" + f" {'plain':>10} {'ours':>8} {'ratio':>7}" * 3)
    with tempfile.TemporaryDirectory() as folder:
        values, means = lambda_table()
        np.save(Path(folder) / "lambda.npy", values.numpy())
        np.save(Path(folder) / "ads.npy", np.repeat(means.numpy()[:, None], 400, 1))
        for system in RANGES:
            for threads in args.threads:
                print(compare(system, threads, args, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
