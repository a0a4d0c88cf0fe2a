"""The data generators utils/gen_data_{poisson,advdiff,helmholtz}.py: command line, files and scales.

    python utils/gen_data_poisson.py --e1 1.0 --e2 2.5 --datapath data/poisson

makes _train_k1.0_2.5_32k.h5, _val_k1.0_2.5_4k.h5, _test_k1.0_2.5_4k.h5 (layout: datafile) and, of the training file,
_train_k1.0_2.5_32k_scales.npy. Files that are there with the same arguments are left alone; an interrupted command goes
on where it was when it is given again. Exit codes: 0 all there, 1 a failed check, 2 bad input, 75 interrupted (the same
command goes on), 130 interrupted twice by Ctrl-C.
"""

import argparse
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fno.cli import Help, Parser, find_device
from fno.datafile import Part, attributes, damage, scales_fit, write_scales
from fno.files import UsageError
from fno.samples import Recipe, Sampler
from fno.session import Progress, Signals, keep_freed_memory
from fno.streams import SPLITS
from fno.systems import SYSTEMS, System, file_name, scales_name

ROOT = Path(__file__).resolve().parents[1]
GENERATOR = "fno 1"
RESIDUAL = 1e-10  # largest relative residual in float64; in float32 as many roundings are allowed


class Stopped(Exception):
    """The generator ends without all its files; `code` is the exit code: 75 interrupted, 1 a failed check."""

    def __init__(self, code: int, text: str) -> None:
        """Keep code and text."""
        super().__init__(text)
        self.code = code


# ---- command line ------------------------------------------------------------------------------


def make_parser(system: System) -> Parser:
    """All flags; those of the published code keep their names."""
    description = (f"Generate {system.title} data: training, validation and test file and the scales. At the defaults "
                   "the files take 5.4 GB and about a minute of CPU time. Interrupted, the same command goes on.")
    parser = Parser(prog=f"gen_data_{system.name}.py", description=description, formatter_class=Help,
                    allow_abbrev=False)
    add, (lower, upper) = parser.add_argument, system.flags
    meaning = {"e": "eigenvalue e of the diffusion tensor", "adr": "Psi, the ratio of advection to diffusion",
               "o": "wave number w, whole"}[system.flag]
    add(f"--{lower}", type=system.number, default=system.defaults[0], help=f"smallest {meaning}")
    add(f"--{upper}", type=system.number, default=system.defaults[1], help="the largest")
    add("--ntrain", type=int, default=32768, help="samples of the training file")
    add("--nval", type=int, default=4096, help="samples of the validation file")
    add("--ntest", type=int, default=4096, help="samples of the test file")
    add("--n", type=int, default=128, help="grid points per side, even")
    add("--ng", type=int, default=144, help="Gaussians of the forcing, a square number up to 256")
    add("--sparse", action=argparse.BooleanOptionalAction, default=True, help="inactive Gaussians have amplitude 0, "
        "not a random one; the published scripts without the flag: --no-sparse")
    add("--datapath", default=str(ROOT / system.folder), help="folder of the files")
    add("--seed", type=int, default=0, help="of the random numbers")
    if system.psi_modes:
        add("--psi", choices=system.psi_modes, default=system.psi_modes[0], help="table: lambda from a table of mean "
            "Psi, as published, so that a sample misses its target by 20 to 40 %%; exact: lambda solves for it")
    add("--dtype", choices=("float64", "float32"), default="float64", help="of the computation, on a GPU as well; the "
        "files hold float32")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:k; auto: the first GPU, else the CPU")
    add("--verify", action="store_true", help="check files that are there against their checksums, and exit")
    add("--force", action="store_true", help="make the files again, even with other arguments")
    return parser


def _check(args: argparse.Namespace, system: System) -> None:
    """Raise UsageError for values that are not allowed."""
    lower, upper = system.flags
    low, high = getattr(args, lower), getattr(args, upper)

    def need(holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise UsageError(f"--{name} must be {allowed}, got {getattr(args, name)}")

    for name in system.flags:
        value = getattr(args, name)
        need(math.isfinite(value) and 0 < value <= 1e6, name, "above 0 and at most 1e6")
    need(low <= high, lower, f"at most --{upper} ({high})")
    for split in SPLITS:
        need(getattr(args, f"n{split}") >= 1, f"n{split}", "at least 1")
    need(4 <= args.n <= 4096 and args.n % 2 == 0, "n", "an even number from 4 to 4096")
    need(1 <= args.ng <= 256 and math.isqrt(args.ng) ** 2 == args.ng, "ng", "a square number from 1 to 256")
    need(0 <= args.seed < 2**63, "seed", "from 0 to 2^63 - 1")


def command(system_name: str, lower: float, upper: float, datapath: str | Path, options: str = "") -> str:
    """The command line that makes the files of a range; `options` are more flags."""
    system = SYSTEMS[system_name]
    words = ["python", str(ROOT / "utils" / f"gen_data_{system_name}.py")]
    for name, value in zip(system.flags, (lower, upper)):
        words += [f"--{name}", repr(system.number(value))]
    return " ".join([shlex.join([*words, "--datapath", str(Path(datapath).absolute())]), options]).strip()


def main(system_name: str, argv: Sequence[str]) -> int:
    """Generate; print errors in one line and give the exit code."""
    try:
        generate(system_name, argv)
        return 0
    except (UsageError, Stopped) as error:
        code = getattr(error, "code", 2)
        print("" if code == 75 else "error: ", " ".join(str(error).split()), sep="", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        return 130


# ---- files -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """A file to be made. `arguments` are those that matter to it, `values` all of its attributes."""

    split: str
    rows: int
    target: Path
    shapes: dict[str, tuple[int, ...]]
    arguments: dict[str, Any]
    values: dict[str, Any]
    old: int | None  # with --force: the time stamp of the file that is to be replaced

    @property
    def part(self) -> Part:
        """Its folder while it is made."""
        return Part(self.target, self.shapes, self.arguments, self.values)

    def is_done(self) -> bool:
        """Tell whether the file is there.

        Raises:
            UsageError: for one that was made with other arguments, or is none of ours.
        """
        if not self.target.exists() or self.target.stat().st_mtime_ns == self.old:
            return False
        try:
            found = attributes(self.target)
        except UsageError as error:
            raise UsageError(f"{error}; remove it, or make it again with --force") from error
        changes = [f"{name} {found.get(name)} -> {value}" for name, value in self.arguments.items()
                   if found.get(name) != value]
        if changes:
            raise UsageError(f"{self.target} holds data made with other arguments: {', '.join(changes)}; "
                             "use another --datapath or --force")
        return True


def _jobs(args: argparse.Namespace, recipe: Recipe) -> list[Job]:
    """The three files of a range."""
    system, jobs = recipe.system, []
    common = {name: getattr(args, name) for name in (*system.flags, "n", "ng", "sparse", "seed", "dtype")}
    common |= {"psi": args.psi} if system.psi_modes else {}
    common |= {"generator": GENERATOR, "system": system.name}
    for split in SPLITS:
        rows, target = getattr(args, f"n{split}"), Path(args.datapath) / file_name(system, split, *recipe.bounds)
        fields = (rows, 2, args.n, args.n)
        shapes = dict(zip(system.datasets, (fields, (rows, len(system.coefficients)), (rows, 1))))
        values = common | {f"n{name}": getattr(args, f"n{name}") for name in SPLITS}
        values |= {"device": str(recipe.device), "split": split, "range": np.array(recipe.bounds, np.float64)}
        old = target.stat().st_mtime_ns if args.force and target.exists() else None
        jobs.append(Job(split, rows, target, shapes, common | {f"n{split}": rows}, values, old))
    return jobs


def generate(system_name: str, argv: Sequence[str]) -> None:
    """Make the files of a range where they are not there yet.

    Raises:
        UsageError: for bad input, files with other arguments, and a disk that is full or cannot be written.
        Stopped: when a signal asked to stop (code 75), a file fails --verify or a sample its residual (code 1).
    """
    system = SYSTEMS[system_name]
    args = make_parser(system).parse_args(argv)
    _check(args, system)
    bounds = tuple(getattr(args, name) for name in system.flags)
    recipe = Recipe(system, bounds, args.n, args.ng, args.sparse, args.seed, getattr(args, "psi", "table"),
                    getattr(torch, args.dtype), find_device(args.device))
    with _writing(args.datapath):
        jobs = _jobs(args, recipe)
        if args.verify:
            return _verify(jobs)
        missing = [job for job in jobs if not job.is_done()]
        _prepare(Path(args.datapath), missing)
    keep_freed_memory()
    sampler = Sampler(recipe)
    with Signals() as signals, _writing(args.datapath):
        for job in jobs:
            if job not in missing:
                job.part.tidy()
            if job not in missing or not _make(job, sampler, signals):
                print(f"{job.target}: already there", flush=True)
        _make_scales(jobs[0], Path(args.datapath) / scales_name(system, *bounds), len(system.coefficients))
        if signals.requested:  # while the last file or the scales were made: whoever called must not go on
            raise Stopped(75, f"{signals.requested}: stopped, with all files made; the same command goes on")


@contextmanager
def _writing(datapath: str) -> Iterator[None]:
    """File system errors become one clear line."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"--datapath {datapath}: cannot write: {error}") from error


def _verify(jobs: Sequence[Job]) -> None:
    """Check the checksums of all files."""
    bad = []
    for job in jobs:
        problem = damage(job.target) if job.target.exists() else f"{job.target} is not there"
        print(problem or f"{job.target}: as its checksums say", flush=True)
        bad += [job.split] if problem else []
    if bad:
        raise Stopped(1, f"{len(bad)} of {len(jobs)} files failed: {', '.join(bad)}")


def _prepare(folder: Path, jobs: Sequence[Job]) -> None:
    """Make the folder and check that the disk has room."""
    folder.mkdir(parents=True, exist_ok=True)
    need = 4 * sum(math.prod(shape) for job in jobs for shape in job.shapes.values())
    for job in jobs:  # what is there already of an interrupted one
        need -= job.part.data.stat().st_blocks * 512 if job.part.data.exists() else 0
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UsageError(f"--datapath {folder}: the files need {need / 1e9:.3g} GB, {free / 1e9:.3g} GB are free")


def _claim(part: Part, is_done: Callable[[], bool], signals: Signals) -> bool:
    """Take the folder, waiting for another process that has it; False when the file is there in the end."""
    told = False
    while not is_done():
        try:
            if part.claim():
                if not is_done():
                    return True
                part.remove()  # finished between the two looks
                break
        except FileNotFoundError:  # removed by the process that finished
            continue
        if not told:
            print(f"{part.target}: {part.holder} makes it, waiting", file=sys.stderr, flush=True)
            told = True
        if signals.requested:
            raise Stopped(75, f"{signals.requested}: stopped waiting for {part.target}; the same command goes on")
        time.sleep(0.2)
    return False


def _make(job: Job, sampler: Sampler, signals: Signals) -> bool:
    """Make a file; False when another process has made it meanwhile."""
    part, start = job.part, time.monotonic()
    if not _claim(part, job.is_done, signals):
        return False
    progress = Progress(f"{job.target.name}, samples")
    try:
        first = part.open()
        for chunk in sampler.chunks(job.split, job.rows, first):
            limit = RESIDUAL * torch.finfo(sampler.recipe.dtype).eps / torch.finfo(torch.float64).eps
            if not chunk.residual <= limit:
                raise Stopped(1, f"{job.target}: relative residual {chunk.residual:.1e} in rows {chunk.first} to "
                                 f"{chunk.first + len(chunk.arrays['tensor']) - 1}, allowed {limit:.1e}")
            part.append(chunk)
            progress.update(part.rows, job.rows)
            if signals.requested and part.rows < job.rows:
                part.save()
                raise Stopped(75, f"{signals.requested}: stopped after {part.rows} of {job.rows} samples of "
                                  f"{job.target}; the same command goes on")
        part.finish()
    except ArithmeticError as error:
        raise Stopped(1, f"{job.target}: {error}") from error
    finally:
        progress.close()
        part.close()
    print(f"{job.target}: {job.rows - first} samples in {time.monotonic() - start:.1f} s, relative residual at most "
          f"{part.residual:.1e}", flush=True)
    return True


def _make_scales(job: Job, target: Path, coefficients: int) -> None:
    """Write the scales of the training file where they are not there or do not belong to it."""
    if not scales_fit(job.target, target, coefficients):
        write_scales(job.target, target)
        print(f"{target}: written", flush=True)
