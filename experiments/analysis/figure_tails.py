"""Tail exponents of step lengths against the learning rate (Figure 14), drawn by `tails.py` from steps.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure

from analysis import tails
from analysis.checks import Check, untold
from analysis.collect import Run
from analysis.diagnoses import Panel
from analysis.tails import Tail

Estimate = tuple[float, float]  # alpha and its standard error


def read(run: Run, folder: Path) -> Tail:
    """Return the tail of a run; raises as `diagnoses.read` has it."""
    if not (folder / "steps.json").exists():
        raise FileNotFoundError(folder / "steps.json")
    return tails.read_tail(folder)


def _all(panels: Sequence[Panel[Tail]]) -> list[Tail]:
    found = sorted((tail for panel in panels for tail in panel.found), key=lambda tail: tail.order)
    return tails.with_series(found)


def draw(panels: Sequence[Panel[Tail]]) -> Figure:
    """Draw alpha of all runs, beside the range of the paper's ResNet-18."""
    return tails.draw(_all(panels), published=True)


def table(panels: Sequence[Panel[Tail]]) -> list[dict[str, Any]]:
    """Return a row a run."""
    return [asdict(replace(tail, path=str(tail.path))) for tail in _all(panels)]


def checks(panels: Sequence[Panel[Tail]]) -> list[Check]:
    """Return the claims on Figure 14; a difference below twice its standard error tells nothing."""
    fewer = "PINNs have larger alpha than the ResNet: fewer jumps"
    harder = "alpha is larger at beta = 20 than at beta = 5"
    drop = "alpha of the ResNet drops abruptly at larger learning rates"
    fitted = [tail for tail in _all(panels) if math.isfinite(tail.alpha)]
    resnet = [tail for tail in fitted if tail.model.startswith("ResNet")]
    betas = {beta: [t for t in fitted if t.model == "PINN" and t.physical_value == beta] for beta in (5.0, 20.0)}
    low, high = betas[5.0], betas[20.0]
    pinn = low + high
    found = [
        _larger(fewer, ("PINN", pinn), ("ResNet", resnet)),
        _larger(harder, ("beta = 20", high), ("beta = 5", low)),
    ]
    rates = sorted({tail.lr for tail in resnet})
    if len(rates) < 2:
        return [*found, untold(drop, "the ResNet has no two learning rates")]
    ends = [(f"learning rate {rate:g}", [tail for tail in resnet if tail.lr == rate]) for rate in (rates[0], rates[-1])]
    return [*found, _larger(drop, *ends)]


def _larger(paper: str, first: tuple[str, list[Tail]], second: tuple[str, list[Tail]]) -> Check:
    """Return a check that the first group has the larger mean alpha."""
    if missing := [name for name, group in (first, second) if not group]:
        return untold(paper, f"no exponent of {' and '.join(missing)}")
    (a, da), (b, db) = _mean(first[1]), _mean(second[1])
    here = f"{first[0]}: {a:.2f} +- {da:.2f}, {second[0]}: {b:.2f} +- {db:.2f}"
    if not all(tail.reached for _, group in (first, second) for tail in group):
        here += "; some runs did not reach their loss"
    if abs(a - b) < 2 * math.hypot(da, db):
        return Check(paper, here, None, "the difference is below twice its standard error")
    return Check(paper, here, a > b)


def _mean(group: Sequence[Tail]) -> Estimate:
    """Return the mean of the exponents, with the standard error that follows from that of each."""
    return fmean(tail.alpha for tail in group), math.sqrt(sum(tail.error**2 for tail in group)) / len(group)
