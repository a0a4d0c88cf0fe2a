"""The command lines of `run_exp.py` and `train_trajectories.py`: published flags, ours, the checks before any work."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from .cli import BUDGETS, Help, Parser, find_device, unique
from .data import AUGMENTATIONS, DATASETS, balanced_order, load
from .files import UsageError
from .hessian import Times
from .model import INITS, MODELS, build
from .session import Wandb
from .settings import Data, Recording, Settings

MODULE = Path(__file__).resolve().parents[1]
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("none", "tf32", "bf16")

#: What --budget changes; single flags win. Epochs of a trajectory are those before it is recorded, at most.
TRAINING = {"smoke": {"epochs": 1}, "laptop": {"epochs": 20}, "paper": {"epochs": 200}}
TRAJECTORY = {"smoke": {"epochs": 2, "steps": 20}, "laptop": {"epochs": 50, "steps": 200},
              "paper": {"epochs": 250, "steps": 200}}


def make_parser(trajectory: bool) -> Parser:
    """All flags; those of the published code keep their names. Defaults are the published values."""
    if trajectory:
        parser = Parser(prog="train_trajectories.py", formatter_class=Help, allow_abbrev=False,
                        description="Train to a loss by plain SGD, then record the lengths of the next updates.")
    else:
        parser = Parser(prog="run_exp.py", formatter_class=Help, allow_abbrev=False, epilog=EPILOG,
                        description="Train ResNet-18 on CIFAR-10 or CIFAR-100.")
    add = parser.add_argument_group("network and data").add_argument
    add("--model", default="ResNet18", choices=MODELS, help="ResNet-18 for 32 x 32 images, 11,173,962 weights; _wK: "
        "with K channels instead of 64 in the first stage")
    add("--init", default="torch" if trajectory else "fan_out", choices=INITS, help="initial weights of convolutions: "
        "Kaiming's by fan out, as torchvision has them, or PyTorch's default")
    add("--pretrain", action="store_true", help="start from torchvision's ImageNet weights, where layers fit")
    add("--dataset", default="CIFAR-10", choices=DATASETS, help="downloaded where it is missing")
    add("--data_dir", default=str(MODULE / "data"), metavar="DIR", help="where its archive and its folder are")
    add("--verify", action=argparse.BooleanOptionalAction, default=True, help="checksums of the files; --no-verify: a "
        "data set of one's own in the same file format")
    add("--n_samples", type=int, nargs="+", metavar="N", help="training images, equally many of each class: the first "
        "N in a fixed order; several are trained one after another (default: all)")
    add("--augment", default="none" if trajectory else None, choices=AUGMENTATIONS, help="of training images" + (
        "" if trajectory else " (default: flip for CIFAR-10, crop+flip for CIFAR-100)"))

    add = parser.add_argument_group("SGD").add_argument
    add("--lr", type=float, nargs="+", default=[0.1], metavar="LR", help="learning rate; several are trained one after "
        "another")
    add("--batch_size", type=int, default=64 if trajectory else 128, metavar="B", help="images an update")
    add("--momentum", type=float, default=0.0 if trajectory else 0.9, help="from 0 to below 1")
    add("--weight_decay", type=float, default=0.0 if trajectory else 1e-3, help="added to the gradient, times weights")
    if trajectory:
        add("--loss", type=float, default=1e-4, help="recording begins when the loss of an epoch is at most this, or "
            "after --max_epochs")
        add("--max_epochs", type=int, dest="epochs", metavar="E", help="passes over the images before that, at most "
            "(default: of --budget)")
        add("--steps", type=int, metavar="K", help="updates recorded (default: of --budget)")
    else:
        add("--schedule", default="cosine", choices=SCHEDULES, help="of the learning rate, an epoch a step")
        add("--epochs", type=int, metavar="E", help="passes over the images (default: of --budget)")
    add("--seed", type=int, nargs="+", default=[0], metavar="K", help="of weights, order, augmentation: a run each")
    add("--mixed_precision", default="none", choices=PRECISIONS, help="tf32: convolutions in TensorFloat-32 "
        "throughout, PyTorch's default on GPUs and so published; bf16: training in bfloat16 where it is safe")

    add = parser.add_argument_group("running").add_argument
    budgets = TRAJECTORY if trajectory else TRAINING
    add("--budget", default="paper", choices=BUDGETS, help="; ".join(
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in budgets[name].items()) for name in BUDGETS))
    add("--save_path", default="results", help="where run folders go")
    add("--save_model", action=argparse.BooleanOptionalAction, default=True, help="write model.pt, the final weights")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:k")
    add("--precision", default="float32", choices=["float32", "float64"], help="of weights and images")
    add("--hessian_every", default="0", metavar="E|log|log:K", help="epochs between computations of the Hessian's "
        "highest eigenvalue, on 128 training images: lambda_max in history.csv, or log: at 20 log-spaced epochs; "
        "0: never")
    add("--log_every", type=int, default=1, metavar="E", help="epochs between lines of history.csv")
    add("--checkpoint_every", type=float, default=60.0, metavar="S", help="seconds between checkpoints")
    add("--force", action="store_true", help="train finished runs again")
    add("--wandb", default="disabled", choices=["disabled", "offline", "online"], help="Weights & Biases")
    add("--wandb_project", default="cnn", help="its project")
    add("--workers", type=int, metavar="N", help="published: processes that load images. None are started, whatever N: "
        "the images are held in memory")
    if not trajectory:
        add("--visualize", action="store_true", help="draw the loss landscape after training, as diagnose.py landscape "
            "does: landscape.png, .html, .npz, .json in the run folder")
        add("--type", choices=["3D"], help="of the landscape, with --visualize; published")
    return parser


EPILOG = """examples:
  python run_exp.py --model ResNet18 --dataset CIFAR-10 --epochs 200 --batch_size 128 --save_model
  python run_exp.py --model ResNet18_w16 --n_samples 1000 5000 --lr 0.05 0.1 --seed 0 1 2 --budget laptop
"""


def parse(argv: Sequence[str], trajectory: bool) -> argparse.Namespace:
    """Checked flags; no data are looked at.

    Raises:
        UsageError: for anything that is wrong; the text names the flag and what is allowed.
    """
    args = make_parser(trajectory).parse_args(argv)
    for flag, value in (TRAJECTORY if trajectory else TRAINING)[args.budget].items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    epochs = "max_epochs" if trajectory else "epochs"
    wholes = {"batch_size": (args.batch_size, 1), epochs: (args.epochs, 1), "log_every": (args.log_every, 1),
              "workers": (args.workers or 0, 0)}
    if trajectory:
        wholes["steps"] = args.steps, 1
        if not 0 < args.loss < math.inf:
            raise UsageError(f"--loss must be a positive number, got {args.loss:g}")
        for package in ("powerlaw", "matplotlib"):  # missing? better now than after training
            if find_spec(package) is None:
                raise UsageError(f"train_trajectories.py needs {package}: pip install {package}")
    elif args.visualize:
        if not args.save_model:
            raise UsageError("--visualize needs the weights: it does not go with --no-save_model")
        for package in ("matplotlib", "plotly"):
            if find_spec(package) is None:
                raise UsageError(f"--visualize needs {package}: pip install {package}")
    elif args.type:
        raise UsageError("--type goes with --visualize")
    for flag, (value, least) in wholes.items():
        if value < least:
            raise UsageError(f"--{flag} must be a whole number from {least}, got {value}")
    for flag, values, least, most in (("seed", args.seed, 0, 2**32 - 1), ("n_samples", args.n_samples or [], 1, 2**63)):
        for value in unique(values, f"--{flag}"):
            if not least <= value <= most:
                limits = "from 1" if least else "from 0 to 2^32 - 1"
                raise UsageError(f"--{flag} must be a whole number {limits}, got {value}")
    largest = torch.finfo(getattr(torch, args.precision)).max
    for value in unique(args.lr, "--lr"):
        if not 0 < value <= largest:
            raise UsageError(f"--lr must be positive and at most {largest:.1e}, got {value:g}")
    if not 0 <= args.momentum < 1:
        raise UsageError(f"--momentum must be from 0 to below 1, got {args.momentum:g}")
    for flag in ("weight_decay", "checkpoint_every"):
        if not 0 <= getattr(args, flag) <= largest:
            raise UsageError(f"--{flag} must be from 0 to {largest:.1e}, got {getattr(args, flag):g}")
    for flag in ("save_path", "data_dir"):
        if not getattr(args, flag):
            raise UsageError(f"--{flag} must name a folder, got ''")
    check_precision(args)
    if args.pretrain:  # weights that cannot be had? better now than in every run
        build(args.model, DATASETS[args.dataset].classes, 0, args.init, pretrained=True)
    Wandb(args.wandb)  # missing? better now than after the run folders are made
    return args


def check_precision(args: argparse.Namespace) -> None:
    """Look that the device can do what is asked for, and set it up."""
    device = find_device(args.device)
    if args.mixed_precision == "tf32" and device.type == "cpu":
        raise UsageError("--mixed_precision tf32 needs a GPU; allowed here: none, bf16")
    if args.mixed_precision != "none" and args.precision == "float64":
        raise UsageError("--mixed_precision goes with --precision float32")
    torch.backends.cudnn.conv.fp32_precision = "tf32" if args.mixed_precision == "tf32" else "ieee"
    torch.backends.cudnn.deterministic = True


def settings(args: argparse.Namespace, trajectory: bool) -> list[Settings]:
    """One cell a learning rate and number of images; the data are downloaded where they are missing.

    Raises:
        UsageError: for data that are missing, broken, or too few.
    """
    dataset = DATASETS[args.dataset]
    train, test = load(args.dataset, Path(args.data_dir), args.verify)
    rows = len(train)
    for n in args.n_samples or ():
        if n > rows:
            raise UsageError(f"--n_samples must be at most {rows}, the training images of {args.data_dir}; got {n}")
    identity = {"train": rows, "test": len(test), "train_crc32": train.checksum(), "test_crc32": test.checksum()}
    data = Data(dataset, train.select(balanced_order(train.labels)), test, identity)
    recording = Recording(args.loss, args.steps) if trajectory else None
    if args.workers:
        print(f"--workers {args.workers}: none are needed, the images are held in memory", file=sys.stderr)
    return [Settings(
        data=data, n=n, model=args.model, init=args.init, pretrain=args.pretrain, epochs=args.epochs,
        batch_size=args.batch_size, lr=lr, momentum=args.momentum, weight_decay=args.weight_decay,
        schedule="constant" if trajectory else args.schedule, augment=args.augment or dataset.augment,
        recording=recording, save_path=Path(args.save_path), device=find_device(args.device),
        dtype=getattr(torch, args.precision), mixed_precision=args.mixed_precision, budget=args.budget,
        hessian_every=Times.parse(args.hessian_every), log_every=args.log_every,
        checkpoint_seconds=args.checkpoint_every, save_model=args.save_model, force=args.force,
        wandb=args.wandb, wandb_project=args.wandb_project)
        for n in args.n_samples or [rows] for lr in args.lr]
