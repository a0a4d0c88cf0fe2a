"""Tiny runs that are really trained, to be looked at by diagnose.py."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn import train as training  # noqa: E402
from pinn.arguments import parse  # noqa: E402

TINY = "--budget smoke --num_res 30 --num_x 33 --num_t 11 --num_neurons 6 --num_layers 3 --device cpu"
BETA = "--pde_params '{\"beta\": 2}'"


def train(arguments: str, path: Path) -> Path:
    """Train a single tiny run; gives its folder."""
    settings, physical, seeds = parse([*shlex.split(f"{TINY} {arguments}"), "--save_path", str(path)])
    assert training.train(settings[0], settings[0].runs(physical, seeds)) == 0
    return next(path.rglob("metrics.json")).parent
