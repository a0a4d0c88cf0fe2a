"""Step lengths of an optimizer at low loss, and the tail exponent of their inverses (Fig. 14 of the paper).

Lengths d_k = |W_{k+1} - W_k|_2 over all trainable weights, of consecutive steps after the loss has come down to a
threshold. A power law

    p(x) ~ x^(-alpha),   x = 1 / d >= xmin,        alpha = 1 + m / sum_{x >= xmin} ln(x / xmin)

is fitted to the m largest x, with xmin where the Kolmogorov-Smirnov distance of tail and fit is least (Clauset, Shalizi
and Newman 2009, by the package `powerlaw`). alpha is the density exponent of x, so P(d < s) ~ s^(alpha - 1) for small
s. The smaller alpha, the wider the lengths are spread: log-normal lengths, which have no power-law tail, with natural
log-sd 0.1, 0.3, 0.6, 1, 1.5 give about 21, 7.6, 4.2, 2.9, 2.3. Hence the log-sd, the distance and m beside alpha.

    tail = write(folder, lengths, losses, {"loss": 1e-4, "reached": True, "iteration": 840, "unit": "SGD step",
                                           "lr": 0.1})                    # steps.csv, steps.png, steps.json
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import atomic_write, write_json

SHORTEST = 1e-12  # shorter lengths are left out: the optimizer stood still
FEWEST = 10  # different lengths that a fit takes


@dataclass(frozen=True)
class Tail:
    """A power law fitted to inverse lengths; NaN and count 0 where there are too few lengths.

    The standard error takes the lengths for independent and xmin for given: the real uncertainty is larger.
    """

    alpha: float  # density exponent of 1 / d
    error: float  # standard error of alpha, (alpha - 1) / sqrt(count)
    distance: float  # Kolmogorov-Smirnov, between tail and fit
    xmin: float  # the smallest 1 / d of the tail
    count: int  # lengths in the tail
    log_sd: float  # standard deviation of ln d, of all usable lengths


def usable(lengths: Sequence[float]) -> np.ndarray:
    """The lengths that are finite and above 1e-12, float64."""
    d = np.asarray(lengths, dtype=np.float64)
    return d[is_usable(d)]


def is_usable(d: np.ndarray) -> np.ndarray:
    """Tell which lengths are finite and above 1e-12."""
    return np.isfinite(d) & (d > SHORTEST)


def fit_tail(lengths: Sequence[float]) -> Tail:
    """Fit the power law to the usable lengths; NaN for fewer than 10 different ones, but for log_sd (of at least 2)."""
    d = usable(lengths)
    log_sd = float(np.log(d).std(ddof=1)) if len(d) > 1 else math.nan
    if len(np.unique(d)) < FEWEST:
        return Tail(math.nan, math.nan, math.nan, math.nan, 0, log_sd)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # it warns of whole numbers, of its own renamings, of trial fits that fail
        import powerlaw  # takes seconds and imports pyplot

        x = np.exp(np.log(d).mean()) / d  # in a common unit: x^(-alpha) of inverse lengths as they are may underflow
        # up to 3 by default, where version 1.5 had no limit
        fit = powerlaw.Fit(x, verbose=0, parameter_ranges={"alpha": [1, None]})
        law, count = fit.power_law, int(fit.n_tail)
        return Tail(alpha=float(law.alpha), error=float(law.standard_err), distance=float(law.D),
                    xmin=float(1 / np.sort(d)[count - 1]), count=count, log_sd=log_sd)


def write(folder: Path, lengths: Sequence[float], losses: Sequence[float], about: Mapping[str, Any]) -> Tail:
    """Fit and record: steps.csv (step, length, loss), steps.png and, last, steps.json.

    Args:
        folder: where they go; a file that is there is replaced.
        lengths: d_k, k = 0, 1, ...
        losses: the loss at W_k, as many.
        about: what else steps.json holds: "loss" (the threshold), "reached" (whether it was), "iteration" (steps made
            before the first recorded one), "unit" (of a step, such as "SGD step"), "lr".

    Raises:
        ValueError: when there are not as many losses as lengths.
        OSError: for a folder that cannot be written.
    """
    lines = [f"{k},{length!r},{loss!r}\n" for k, (length, loss) in enumerate(zip(
        map(float, lengths), map(float, losses), strict=True))]
    tail, left = fit_tail(lengths), len(usable(lengths))
    (folder / "steps.json").unlink(missing_ok=True)  # what is there belongs to the files that are replaced now
    atomic_write(folder / "steps.csv", lambda file: file.write("".join(["step,length,loss\n", *lines]).encode()))
    figure = draw(lengths, tail, about)
    atomic_write(folder / "steps.png", lambda file: figure.savefig(file, format="png", dpi=150))
    write_json(folder / "steps.json", {"schema": 1, **asdict(tail), "steps": len(lengths),
                                       "dropped": len(lengths) - left, **about})
    return tail


def draw(lengths: Sequence[float], tail: Tail, about: Mapping[str, Any]) -> Any:
    """Figure with the complementary distribution of 1 / d and the fitted tail, and with d_k over k."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = np.sort(1 / usable(lengths))
    if len(x):
        left.loglog(x, np.arange(len(x), 0, -1) / len(x), ".", color="tab:blue", label="steps")
    if tail.count:
        ends = np.geomspace(tail.xmin, x[-1], 50)
        left.loglog(ends, tail.count / len(x) * (ends / tail.xmin) ** (1 - tail.alpha), color="tab:red",
                    label=f"fit, {tail.count} of {len(x)} steps")
        left.legend()
    left.set(xlabel="inverse step length 1/d", ylabel="share of steps with at least this 1/d")
    every = np.asarray(lengths, dtype=np.float64)
    shown = is_usable(every)
    right.plot(np.flatnonzero(shown), every[shown], ".-", color="tab:blue", linewidth=0.5, markersize=3)
    right.set(xlabel=f"{about['unit']} after a loss of {about['loss']:g}" if about["reached"] else about["unit"],
              ylabel=r"step length $d_k = |W_{k+1} - W_k|$")
    if shown.any():
        right.set_yscale("log")
    figure.suptitle(rf"$\alpha$ = {tail.alpha:.2f} $\pm$ {tail.error:.2f}, Kolmogorov-Smirnov distance "
                    f"{tail.distance:.3f}, sd of ln d {tail.log_sd:.2f}" if tail.count else
                    f"too few step lengths for a fit: {len(x)}")
    return figure
