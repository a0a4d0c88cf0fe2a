"""The command line of `train.py`: published flags, ours, and the checks that end in one clear line."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from .cli import BUDGETS, Help, Parser, find_device, unique
from .configs import LOSS_STYLES, MODULE, OPTIMIZERS, SCHEDULERS, Config, check, find_yaml, read, resolve
from .data import check_scales, inspect, read_scales
from .datafile import write_scales
from .files import UsageError
from .generate import command, generate
from .hessian import Times
from .parallel import World
from .session import Wandb
from .settings import Files, Settings
from .spectral import SPECTRAL
from .systems import SYSTEMS, System, file_name, scales_name

#: Flags that override a key of the YAML file where they are given.
OVERRIDES = ("lr", "batch_size", "max_epochs", "val_every", "loss_style", "optimizer", "scheduler", "shuffle")


def whole_or_auto(text: str) -> int | str:
    """A number, or the word auto."""
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be auto or a whole number from 1, got {text!r}")
    return text if text == "auto" else int(text)


def make_parser() -> Parser:
    """All flags; those of the published code keep their names."""
    parser = Parser(prog="train.py", formatter_class=Help, allow_abbrev=False, epilog=EPILOG,
                    description="Train Fourier neural operators on 2D Poisson, advection-diffusion or Helmholtz data.")
    add = parser.add_argument_group("configuration").add_argument
    add("--yaml_config", default="config/operators_poisson_64K.yaml", metavar="FILE", help="in the working "
        "directory or in FNO/")
    add("--config", default="poisson_scale_k1.0_2.5_val1024_64K", metavar="NAME", help="its entry; a wrong name lists "
        "the nearest")
    add("--subsample", type=int, nargs="+", metavar="S", help="every how many rows of the train file are used: n = "
        "rows // S; several are trained one after another")
    add("--seed", type=int, nargs="+", metavar="K", help="of the weights and the order of the samples; one run each")
    add("--lr", type=float, help="first learning rate")
    add("--batch_size", type=int, metavar="B", help="samples an update, at most n")
    add("--max_epochs", type=whole_or_auto, metavar="E", help="passes over the samples, or auto: the paper's number "
        "for n")
    add("--val_every", type=whole_or_auto, metavar="E", help="epochs between validations, or auto: as many as train on "
        "as many samples as are validated")
    add("--loss_style", choices=LOSS_STYLES, help="sum: squares summed over the pixels (published); mean: over pixels; "
        "relative: relative L2 error")
    add("--optimizer", choices=OPTIMIZERS, help="sgd: momentum 0.9")
    add("--scheduler", choices=SCHEDULERS, help="of the learning rate, an epoch a step")
    add("--shuffle", action=argparse.BooleanOptionalAction, help="a new order of the samples every epoch; published on "
        "one GPU: without")

    add = parser.add_argument_group("data").add_argument
    add("--data_dir", metavar="DIR", help="where the four data files are, instead of the folders in the YAML file "
        "(which are relative to FNO/)")
    add("--generate", nargs="?", const="", metavar="FLAGS", help="make data files that are missing; more flags of the "
        "generator in quotes: --generate '--n 64 --ntrain 2048 --nval 512 --ntest 512'; a single word after an equals "
        "sign: --generate=--psi=exact")

    add = parser.add_argument_group("running").add_argument
    add("--root_dir", default="results", help="where run folders go")
    add("--run_num", metavar="NAME", help="a folder below it, to keep apart runs of one configuration")
    add("--budget", choices=BUDGETS, help="epochs: smoke (1 or 2), laptop (a fifth of the paper's), paper; instead of "
        "those of the YAML file, where --max_epochs is not given")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:k; with torchrun auto, cpu or cuda")
    add("--precision", default="float32", choices=["float32", "float64"], help="of weights and fields")
    add("--spectral", default=SPECTRAL[0], choices=SPECTRAL, help="Fourier modes by matrices or by FFT: equal up to "
        "rounding")
    add("--force", action="store_true", help="train finished runs again")
    add("--save_model", action=argparse.BooleanOptionalAction, default=True, help="write model.pt (last epoch), "
        "model_best.pt and model_init.pt")
    add("--log_every", type=int, default=1, metavar="E", help="epochs between lines of history.csv")
    add("--hessian_every", default="0", metavar="E|log|log:K", help="epochs between computations of the Hessian's "
        "highest eigenvalue, on 128 samples of the training file: lambda_max in history.csv, or log: at 20 log-spaced "
        "epochs; 0: never")
    add("--checkpoint_every", type=float, default=60.0, metavar="S", help="seconds between checkpoints")
    add("--wandb", default="disabled", choices=["disabled", "offline", "online"], help="Weights & Biases")
    add("--wandb_project", default="fno", help="its project")
    return parser


EPILOG = """examples:
  python train.py --generate                                   # makes 5.4 GB of data first, where they are missing
  python train.py --data_dir small --generate "--n 64 --ntrain 1024 --nval 256 --ntest 256" --subsample 8 --seed 0 1
  python train.py --yaml_config config/operators_ad_1M.yaml --config ad_scale_0p2_0p4_val1024_1M --subsample 2 4 8
  torchrun --nproc_per_node 4 train.py ...
"""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """Flags and the configuration that they and the YAML file give; no data are looked at.

    Raises:
        UsageError: for anything that is wrong; the text names the flag and what is allowed.
    """
    args = make_parser().parse_args(argv)
    keys = read(find_yaml(args.yaml_config), args.config)
    config = resolve(keys, f"--yaml_config {args.yaml_config}, {args.config}")
    given = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    if args.budget and "max_epochs" not in given:
        given["max_epochs"] = "auto"
    for name, value in given.items():
        check(name, value, f"--{name}")
    args.seeds = unique(args.seed or [config.seed], "--seed")
    args.subsamples = unique(args.subsample or [config.subsample], "--subsample")
    for flag, values, least in (("--seed", args.seeds, 0), ("--subsample", args.subsamples, 1)):
        for value in values:
            if not least <= value < 2**63:
                raise UsageError(f"{flag} must be a whole number from {least}, got {value}")
    if args.log_every < 1:
        raise UsageError(f"--log_every must be a whole number from 1, got {args.log_every}")
    if not (args.checkpoint_every >= 0 and math.isfinite(args.checkpoint_every)):
        raise UsageError(f"--checkpoint_every must be a number of seconds from 0, got {args.checkpoint_every}")
    for name in ("root_dir", "data_dir"):
        if getattr(args, name) == "":
            raise UsageError(f"--{name} must name a folder, got ''")
    if args.run_num is not None and not re.fullmatch(r"[\w.=-]*\w[\w.=-]*", args.run_num):
        raise UsageError(f"--run_num must be a name of letters, digits and ._=-, got {args.run_num!r}")
    Wandb(args.wandb)  # missing? better now than after the run folders are made
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and ":" in args.device:
        raise UsageError(f"--device must be auto, cpu or cuda with torchrun, which gives every process a GPU of its "
                         f"own; got {args.device!r}")
    find_device(args.device)
    torch.set_float32_matmul_precision("highest")
    return args, replace(config, **given)


def settings(args: argparse.Namespace, config: Config, world: World) -> list[Settings]:
    """One cell a subsample. Data files that are missing are made, with --generate.

    Raises:
        UsageError: for data that are missing, broken, or too few.
    """
    system = SYSTEMS[config.system]
    files = world.share(lambda: find_files(args, config, system))
    size, least = files.train.size, 2 * config.mode_cut
    if not size == files.val.size == files.test.size:
        raise UsageError(f"the data files have different grids: train {size}, val {files.val.size}, test "
                         f"{files.test.size}")
    if size < least:
        raise UsageError(f"--config {args.config}: {config.mode_cut} modes need a grid of at least {least} points a "
                         f"side, {files.train.path} has {size}")
    if files.val.rows < config.val_subsample:
        raise UsageError(f"{files.val.path} has {files.val.rows} rows: fewer than val_subsample {config.val_subsample}")
    counts: dict[int, int] = {}  # subsample by n, which names the run folder
    for subsample in args.subsamples:
        if subsample > files.train.rows:
            raise UsageError(f"--subsample must be at most {files.train.rows}, the rows of {files.train.path}; got "
                             f"{subsample}")
        count = files.train.rows // subsample
        if count < world.size:
            raise UsageError(f"--subsample {subsample} leaves {count} samples for {world.size} processes")
        if counts.setdefault(count, subsample) != subsample:
            raise UsageError(f"--subsample {counts[count]} and {subsample} both leave {count} samples of "
                             f"{files.train.rows}: they would share a run folder")
    root = Path(args.root_dir, args.run_num) if args.run_num else Path(args.root_dir)
    return [Settings(
        name=args.config, config=replace(config, subsample=subsample), files=files, save_path=root, device=world.device,
        dtype=getattr(torch, args.precision), spectral=args.spectral, budget=args.budget or "paper",
        log_every=args.log_every, hessian_every=Times.parse(args.hessian_every),
        checkpoint_seconds=args.checkpoint_every, save_model=args.save_model, force=args.force,
        wandb=args.wandb, wandb_project=args.wandb_project, processes=world.size)
        for subsample in args.subsamples]


def find_files(args: argparse.Namespace, config: Config, system: System) -> Files:
    """The data files of a configuration, made first where they are missing and --generate is given."""
    names = ("train", "val", "test", "scales")
    paths = {name: locate(getattr(config, f"{name}_path"), args.data_dir) for name in names}
    missing = [path for path in paths.values() if not path.exists()]
    if args.generate == "" and missing == [paths["scales"]]:  # the published generators write none
        inspect(paths["train"], system, config.range)
        try:
            write_scales(paths["train"], paths["scales"])
        except OSError as error:
            raise UsageError(f"{paths['scales']} cannot be written: {error}") from None
    elif missing or args.generate:  # with flags for the generator, which looks whether the files are as they say
        make(paths["train"].parent, missing, args, config, system)
    train, val, test = (inspect(paths[name], system, config.range) for name in ("train", "val", "test"))
    scales = read_scales(paths["scales"], system)
    check_scales(train, scales, 1.1)  # the very medians of this file; neighbouring ranges differ by more
    for file in (val, test):  # other samples, perhaps few: only a range that is far off can be told
        if file.rows >= 16:
            check_scales(file, scales, 4)
    return Files(train, val, test, scales)


def locate(path: str, folder: str | None) -> Path:
    """A data file: in --data_dir, else as in the YAML file, where relative paths begin in FNO/."""
    return Path(folder).absolute() / Path(path).name if folder else MODULE / path


def make(folder: Path, missing: Sequence[Path], args: argparse.Namespace, config: Config, system: System) -> None:
    """Call the generator; it leaves alone what is there.

    Raises:
        UsageError: without --generate, and for files that the generator does not make.
    """
    names = {file_name(system, split, *config.range) for split in ("train", "val", "test")}
    names.add(scales_name(system, *config.range))
    other = [path for path in missing if path.parent != folder or path.name not in names]
    if other:
        near = difflib.get_close_matches(other[0].name, names, 1, 0)[0]
        raise UsageError(f"{other[0]} is missing, and the generator does not make it (it makes {folder / near}, ...)")
    if args.generate is None:
        raise UsageError(f"{missing[0]} is missing; make it with: {command(system.name, *config.range, folder)} (or "
                         f"give --generate)")
    try:
        words = shlex.split(args.generate)
    except ValueError as error:
        raise UsageError(f"--generate: {error}: {args.generate}") from None
    taken = {"--datapath", *(f"--{flag}" for flag in system.flags)}
    for word in words:
        if word.partition("=")[0] in taken:
            raise UsageError(f"--generate: {word} is given by the configuration and --data_dir")
    root = Path(args.root_dir).absolute()
    there = next(path for path in (root, *root.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):  # known before the data are made, which may take long
        raise UsageError(f"--root_dir {args.root_dir}: cannot write: {there} is no folder that can be written")
    limits: list[Any] = [word for flag, value in zip(system.flags, config.range, strict=True)
                         for word in (f"--{flag}", repr(value))]
    generate(system.name, [*limits, "--datapath", str(folder), *words])


assert {*OVERRIDES} <= {field.name for field in fields(Config)}
