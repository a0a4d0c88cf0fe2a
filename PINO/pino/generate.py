"""The data generator scripts/generate_darcy.py: command line and files; also called by training for what is missing.

    python scripts/generate_darcy.py --r 10 --N 421 --n_samples 1024 --seed 0 --outdir data/

makes darcy_N421_n1024_r10_f1_seed0.h5 (training) and darcy_N421_n200_r10_f1_test.h5 (test); layout: store. Files that
are there with the same arguments are left alone. While a file is made, its rows lie in a folder `<name>.part/`, from
which an interrupted command goes on when it is given again. Exit codes: 0 all there, 1 a solution misses its tolerance,
2 bad input, 75 interrupted (the same command goes on), 130 interrupted twice by Ctrl-C.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import matlab, store
from .cli import Help, Parser, find_device, unique
from .darcy import GRF, TOL, NotConverged, sign_fields, solve
from .fields import Fields
from .files import UsageError, warn_once
from .part import Part
from .session import Progress, Signals, keep_freed_memory
from .store import Recipe, shortest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
SAVE_SECONDS = 5.0  # between two pieces of a file
BLOCK = {"cpu": 4, "cuda": 256}  # samples between two looks at the signals


class Stopped(Exception):
    """A file is not made; `code` is the exit code: 75 interrupted, 1 a solution misses its tolerance."""

    def __init__(self, code: int, text: str) -> None:
        """Keep code and text."""
        super().__init__(text)
        self.code = code


# ---- command line ------------------------------------------------------------------------------


def make_parser() -> Parser:
    """All flags; those of the published code keep their names."""
    parser = Parser(prog="generate_darcy.py", description=__doc__, formatter_class=Help, allow_abbrev=False)
    add = parser.add_argument
    add("--N", type=int, default=421, help="nodes a side, boundary included")
    add("--n_samples", type=int, default=1024, help="training samples; a larger set begins with the smaller one")
    add("--n_test", type=int, default=200, help="test samples, the same for every --seed; 0: no test file")
    add("--r", type=float, nargs="+", default=[4.0], help="contrasts: a is a_low or r a_low; the geometry is the same "
        "for every r")
    add("--a_low", type=float, default=3.0, help="the smaller value of a")
    add("--tau", type=float, default=3.0, help="inverse length of the random field z")
    add("--alpha", type=float, default=2.0, help="its exponent; the larger, the smoother")
    add("--sigma-scale", type=float, default=1.0, help="its amplitude: only the sign of z is used, so that a does not "
        "depend on it")
    add("--f", type=float, default=1.0, help="right-hand side")
    add("--seed", type=int, default=0, help="of the training fields")
    add("--grf", choices=GRF, default=GRF[0], help="periodic: isotropic; neumann: as in the benchmark of Li et al.; "
        "published: with the anisotropy of the published code")
    add("--sub", type=int, help="u is kept at every sub-th node (default: 7; with --format mat always 1)")
    add("--tol", type=float, default=TOL, help="largest relative residual of the equations")
    add("--outdir", default=str(DATA), help="folder of the files")
    add("--format", choices=("h5", "mat"), default="h5", help="h5: sign bits and u in single precision; mat: the "
        "published MATLAB layout; 1.3 MB a sample at N = 421, and 6 MB of memory while the file is written")
    add("--names", choices=("darcy", "piececonst"), default="darcy", help="file names with --format mat; piececonst: "
        "piececonst_r{R}_N{n_samples}_smooth1.mat (training) and ..._smooth2.mat (test)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:k; auto: the first GPU, else the CPU")
    add("--force", action="store_true", help="make the files again, even with other arguments")
    return parser


def _targets(args: argparse.Namespace) -> list[Target]:
    """The files that are asked for. Raises UsageError for values that are not allowed."""
    full, targets = args.format == "mat", []
    if args.names != "darcy" and not full:
        raise UsageError(f"--names {args.names} needs --format mat")
    if full and args.sub not in (None, 1):
        raise UsageError(f"--sub must be 1 with --format mat, got {args.sub}")
    stride = (1 if full else 7) if args.sub is None else args.sub
    if not (0 < args.sigma_scale < math.inf):
        raise UsageError(f"--sigma-scale must be above 0 and finite, got {args.sigma_scale}")
    for flag, least in (("n_samples", 1), ("n_test", 0)):
        if not least <= getattr(args, flag) <= 10**6:
            raise UsageError(f"--{flag} must be from {least} to 1e6, got {getattr(args, flag)}")
    for r in unique(args.r, "--r"):
        for split, flag, ending in (("train", "n_samples", "1"), ("test", "n_test", "2")):
            recipe = Recipe(args.N, r, args.f, args.tau, args.alpha, args.a_low, args.grf, stride,
                            args.seed, split, args.tol)
            recipe.check()
            rows = getattr(args, flag)
            if full:
                matlab.check_rows(recipe, rows, flag)
            name = recipe.stem(rows, full)
            if args.names == "piececonst":
                name = f"piececonst_r{shortest(recipe.r)}_N{args.n_samples}_smooth{ending}"
            if rows:
                path = Path(args.outdir) / f"{name}.{args.format}"
                targets.append(Target(recipe, rows, path, args.sigma_scale, _stamp(path) if args.force else None))
    return targets


def _stamp(path: Path) -> int | None:
    """When a file was written; None where there is none."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return None


def main(argv: Sequence[str]) -> int:
    """Generate; print errors in one line and give the exit code."""
    try:
        args = make_parser().parse_args(argv)
        targets, device = _targets(args), find_device(args.device)
        with Signals() as signals, _writing(args.outdir, "--outdir"):
            missing = [target for target in targets if not target.is_done()]
            _prepare(Path(args.outdir), missing, "--outdir")
            for target in targets:
                if not _make(target, device, signals):
                    print(f"{target.path}: already there", flush=True)
            if signals.requested:  # while the last file was written: whoever called must not go on
                raise Stopped(75, f"{signals.requested}: stopped, with all files made; the same command goes on")
        return 0
    except (UsageError, Stopped) as error:
        code = getattr(error, "code", 2)
        print("" if code == 75 else "error: ", " ".join(str(error).split()), sep="", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        return 130


def make(recipe: Recipe, n: int, folder: Path, device: torch.device, signals: Signals,
         flag: str = "--data_dir") -> Path:
    """A finished file with at least n fields of a recipe in a folder, made where there is none.

    What is made is announced in one line. When another process is making it, this waits. `flag` names the folder in
    errors.

    Raises:
        UsageError: for a recipe that is not allowed, a broken file of that name, and a folder that cannot be written.
        Stopped: when a signal asked to stop (code 75), or a solution misses its tolerance (code 1).
    """
    recipe.check()
    with _writing(folder, flag):
        path = store.find(recipe, n, folder)
        if path is None:
            target = Target(recipe, n, folder / f"{recipe.stem(n)}.h5")
            if not target.is_done():
                _prepare(folder, [target], flag)
            _make(target, device, signals)
            path = target.path
    return path


def resolve(fields: Fields, r: float, device: torch.device, tol: float = TOL) -> Fields:
    """The same geometry with the contrast r, solved anew; u at the same nodes.

    Raises:
        NotConverged: as darcy.solve.
    """
    u, progress = np.empty_like(fields.u), Progress(f"solutions for r = {r:g}, samples")
    for first in range(0, len(fields), BLOCK[device.type]):
        rows = slice(first, first + BLOCK[device.type])
        a = _coefficient(fields.signs(rows), fields.low, fields.low * r, device)
        u[rows] = solve(a, fields.f, tol).u[:, ::fields.stride, ::fields.stride].cpu().numpy()
        progress.update(min(rows.stop, len(fields)), len(fields))
    progress.close()
    return replace(fields, u=u, high=fields.low * r, identity={**fields.identity, "r": float(r)})


# ---- files -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A file to be made, HDF5 or MATLAB by its ending; `old` is the time stamp of the file that is to be replaced."""

    recipe: Recipe
    rows: int
    path: Path
    sigma_scale: float = 1.0
    old: int | None = None

    @property
    def full(self) -> bool:
        """Whether u is kept in double precision."""
        return self.path.suffix == ".mat"

    @property
    def part(self) -> Part:
        """Its folder while it is made."""
        return Part(self.path, self.recipe.identity())

    def is_done(self) -> bool:
        """Tell whether the file is there.

        Raises:
            UsageError: for one that was made with other arguments, or is none of ours.
        """
        stamp = _stamp(self.path)
        if stamp is None or stamp == self.old:
            return False
        try:
            if self.full:
                matlab.check(self.path, self.recipe, self.rows)
            elif store.rows_of(self.path, self.recipe) != self.rows:
                raise UsageError(f"{self.path} holds another number of samples than its name says")
        except UsageError as error:
            raise UsageError(f"{error}; use another folder, or make it again with generate_darcy.py --force") from error
        return True


@contextmanager
def _writing(folder: str | Path, flag: str) -> Iterator[None]:
    """File system errors become one clear line."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{flag} {folder}: cannot write: {error}") from error


def _prepare(folder: Path, targets: Sequence[Target], flag: str) -> None:
    """Make the folder and check that the disk has room."""
    folder.mkdir(parents=True, exist_ok=True)
    need = sum(store.bytes_needed(target.recipe, target.rows, target.full) for target in targets)
    for target in targets:  # what is there already of an interrupted one
        need -= sum(piece.stat().st_size for piece in target.part.path.glob("rows_*.npz"))
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UsageError(f"{flag} {folder}: the files need {need / 1e9:.3g} GB, {free / 1e9:.3g} GB are free")


def _claim(part: Part, target: Target, signals: Signals) -> bool:
    """Take the folder, waiting for another process that has it; False when the file is there in the end."""
    told = False
    while not target.is_done():
        try:
            if part.claim():
                if not target.is_done():
                    return True
                part.remove()  # finished between the two looks
                break
        except FileNotFoundError:  # removed by the process that finished
            continue
        if not told:
            print(f"{target.path}: {part.holder} makes it, waiting", file=sys.stderr, flush=True)
            told = True
        if signals.requested:
            raise Stopped(75, f"{signals.requested}: stopped waiting for {target.path}; the same command goes on")
        time.sleep(0.2)
    return False


def _make(target: Target, device: torch.device, signals: Signals) -> bool:
    """Make a file; False when it is there, perhaps made by another process meanwhile."""
    part, start = target.part, time.monotonic()
    if not _claim(part, target, signals):
        with suppress(OSError):  # left by a process that was killed just after it had written the file
            if part.path.exists() and part.claim():
                part.remove()
        return False
    keep_freed_memory()
    try:
        part.open()
        _take_over(part, target)
        first = part.rows
        _fill(part, target, device, signals)
        bits = part.gather("signs", target.rows)
        if target.full:
            matlab.write(target.path, target.recipe, bits, lambda: part.gather("u", target.rows), target.sigma_scale)
        else:
            store.write(target.path, target.recipe, bits, part.gather("u", target.rows), part.residual)
        part.remove()
    except NotConverged as error:
        raise Stopped(1, f"{target.path}: {error}") from error
    finally:
        part.close()
    seconds = time.monotonic() - start
    print(f"{target.path}: {target.rows - first} samples in {seconds:.1f} s, relative residual at most "
          f"{part.residual:.1e}", flush=True)
    return True


def _take_over(part: Part, target: Target) -> None:
    """Begin with the rows of a finished file of the same recipe."""
    if part.rows or target.full or target.old is not None:
        return
    for rows, path in reversed(store.finished(target.recipe, target.path.parent)):
        try:
            if rows <= target.rows:  # of a larger one the largest residual would be that of other rows
                part.append(*store.load(path, target.recipe, rows))
                return
        except UsageError as error:
            warn_once(str(error))


def _fill(part: Part, target: Target, device: torch.device, signals: Signals) -> None:
    """Draw and solve the rows that are missing, saving them in pieces."""
    if part.rows >= target.rows:
        return
    progress, told, saved, blocks = Progress(f"{target.path.name}, samples"), False, time.monotonic(), []
    first = part.rows
    try:
        while first < target.rows:
            start, rows = time.monotonic(), range(first, min(first + BLOCK[device.type], target.rows))
            blocks.append(_samples(target, rows, device))
            first = rows.stop
            if not told:
                told, seconds = True, (time.monotonic() - start) / len(rows) * (target.rows - rows.start)
                print(f"making {target.path}: {target.rows - rows.start} samples, about {_duration(seconds)}",
                      flush=True)
            progress.update(first, target.rows)
            if signals.requested or first == target.rows or time.monotonic() - saved >= SAVE_SECONDS:
                bits, u, residuals = zip(*blocks)
                part.append(np.concatenate(bits), np.concatenate(u), max(residuals))
                saved, blocks = time.monotonic(), []
            if signals.requested and first < target.rows:
                raise Stopped(75, f"{signals.requested}: stopped after {first} of {target.rows} samples of "
                                  f"{target.path}; the same command goes on")
    finally:
        progress.close()


def _samples(target: Target, rows: range, device: torch.device) -> tuple[np.ndarray, np.ndarray, float]:
    """Sign bits, u and the largest residual of some rows."""
    recipe = target.recipe
    bits = _sign_bits(rows, recipe.seed, recipe.size, recipe.grf, recipe.tau, recipe.alpha, recipe.split)
    signs = np.unpackbits(bits, axis=1, count=recipe.size**2).view(bool).reshape(-1, recipe.size, recipe.size)
    solution = solve(_coefficient(signs, recipe.low, recipe.low * recipe.r, device), recipe.f, recipe.tol)
    u = solution.u[:, ::recipe.stride, ::recipe.stride].cpu().numpy().astype(np.float64 if target.full else np.float32)
    return bits, u, float(solution.residual.max())


@lru_cache(maxsize=512)  # blocks: on a CPU 2000 samples, 45 MB at N = 421
def _sign_bits(rows: range, *arguments: Any) -> np.ndarray:
    """Packed sign fields of some rows, kept for the next contrast: drawing them takes longer than a GPU solves them."""
    return np.packbits(sign_fields(rows, *arguments).reshape(len(rows), -1), axis=1)


def _coefficient(signs: np.ndarray, low: float, high: float, device: torch.device) -> torch.Tensor:
    """A of sign fields, float64, on the device."""
    a = torch.tensor([low, high], dtype=torch.float64, device=device)
    return a[torch.from_numpy(signs).to(device).long()]


def _duration(seconds: float) -> str:
    """Seconds in words."""
    unit, size = ("s", 1) if seconds < 90 else ("min", 60) if seconds < 5400 else ("h", 3600)
    return f"{max(1, round(seconds / size))} {unit}"
