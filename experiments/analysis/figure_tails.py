"""Tail exponents of step lengths against the learning rate (Figure 14), drawn by `tails.py` from steps.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import tails
from analysis.checks import CLOSE, Check, Claim, all_of, beyond_noise, standard_error
from analysis.collect import Run
from analysis.diagnoses import Panel, missing_in
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


# ---- what the paper says -----------------------------------------------------------------------------------------

NOISE = "beyond two standard errors, the larger of those of the fits and over the runs"
FEWER = Claim("PINNs have larger alpha than the ResNet: fewer jumps", f"mean alpha at beta = 5 and at 20, each {NOISE}")
HARDER = Claim("alpha is larger at beta = 20 than at beta = 5", f"mean alpha, {NOISE}")
DROP = Claim("alpha of the ResNet drops abruptly at larger learning rates",
             f"at one rate and all above it alpha is lower than at the rate before, {NOISE}; does not hold where every "
             "fall is made up for at a larger rate")  # fmt: skip


def checks(panels: Sequence[Panel[Tail]]) -> list[Check]:
    """Return the claims on Figure 14, on the runs that reached the loss at which recording was to begin."""
    usable = [Panel(panel.case, tuple(tail for tail in panel.found if tail.reached and math.isfinite(tail.alpha)))
              for panel in panels]  # fmt: skip
    pinns, resnets = ([panel for panel in usable if panel.case.model.startswith(name)] for name in ("PINN", "ResNet"))
    betas = {panel.case.physical: estimate(panel.found) for panel in pinns if panel.found}
    resnet = estimate([tail for panel in resnets for tail in panel.found])
    words = [f"beta = {beta:g}: {in_words(found)}" for beta, found in sorted(betas.items())]
    gone = f"{said}, or did not reach their loss" if (said := missing_in(usable)) else ""
    parts = [larger(found, resnet) for found in betas.values()]
    found = [Check(FEWER, ", ".join([*words, f"ResNet: {in_words(resnet)}"]), all_of(parts, gone), gone or CLOSE)]
    gone = f"{said}, or did not reach their loss" if (said := missing_in(pinns)) else ""
    harder = [larger(betas[20.0], betas[5.0])] if betas.keys() >= {5.0, 20.0} else []
    found.append(Check(HARDER, ", ".join(words), all_of(harder, gone), gone or CLOSE))
    return [*found, _drop(resnets)]


def estimate(group: Sequence[Tail]) -> Estimate:
    """Return the mean of the exponents and its standard error, the larger of those of the fits and over the runs."""
    if not group:
        return math.nan, math.nan
    fits = math.sqrt(sum(tail.error**2 for tail in group)) / len(group)
    return fmean(tail.alpha for tail in group), float(np.fmax(fits, standard_error([tail.alpha for tail in group])))


def larger(first: Estimate, second: Estimate) -> bool | None:
    """Return whether one exponent is the larger; None within twice the standard error of the difference, or without."""
    gap, error = first[0] - second[0], math.hypot(first[1], second[1])
    return beyond_noise(gap, error) if math.isfinite(gap) else None


def in_words(found: Estimate) -> str:
    """Return an exponent with its standard error."""
    return f"{found[0]:.2f} +- {found[1]:.2f}" if math.isfinite(found[0]) else "none"


def _drop(panels: Sequence[Panel[Tail]]) -> Check:
    rates = sorted((panel for panel in panels if panel.found), key=lambda panel: panel.case.physical)
    means = [estimate(panel.found) for panel in rates]
    here = ", ".join(f"{panel.case.physical:g}: {in_words(mean)}" for panel, mean in zip(rates, means))
    if gone := missing_in(panels):  # at a rate that is missing there may be a drop, and it may be made up for there
        return Check(DROP, here, None, f"{gone}, or did not reach their loss")
    return Check(DROP, here, drops(means), "no drop beyond noise" if len(means) > 1 else "there are no two rates")


def drops(means: Sequence[Estimate]) -> bool | None:
    """Return whether exponents in the order of the rates fall for good somewhere."""
    pairs = [[(before, after) for after in means[k + 1 :]] for k, before in enumerate(means[:-1])]
    if any(all(larger(*pair) for pair in falls) for falls in pairs):
        return True
    recovers = all(any(after[0] >= before[0] for before, after in falls) for falls in pairs)
    return False if recovers and pairs else None
