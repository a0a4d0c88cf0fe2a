"""What the paper says that a figure shows, beside what the runs show: a claim, numbers, and whether it holds.

    Check("lambda_max rises while the loss falls", "lambda_max x 4.6, loss x 3e-5", holds=True)

Whether a claim holds is computed from the numbers by the module of the figure; None: it cannot be told, and `why`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

VERDICTS = {True: "holds", False: "does not hold", None: "cannot be told"}


@dataclass(frozen=True)
class Check:
    """One claim, what the runs show in words, and whether they agree with it; `source`: who claims it."""

    claim: str
    here: str
    holds: bool | None
    why: str = ""
    source: str = "paper"

    @property
    def verdict(self) -> str:
        """The verdict in words, with the reason where there is one."""
        return VERDICTS[self.holds] + (f": {self.why}" if self.why else "")


def untold(claim: str, why: str) -> Check:
    """Return a check that cannot be told, as something is missing."""
    return Check(claim, "", None, why)


def format_checks(checks: Iterable[Check]) -> list[str]:
    """Return the lines that `figures.py` prints: the claim, the numbers, the verdict."""
    lines = []
    for check in checks:
        lines.append(f"  {check.source}: {check.claim}")
        lines += [f"    here: {check.here}"] * bool(check.here)
        lines.append(f"    {check.verdict}")
    return lines


def rows(checks: Iterable[Check]) -> list[dict[str, str]]:
    """Return the checks as rows of a table."""
    return [{"source": one.source, "claim": one.claim, "here": one.here, "verdict": VERDICTS[one.holds], "why": one.why}
            for one in checks]  # fmt: skip


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation over the pairs that are both finite; NaN for fewer than four or constants."""
    pairs = np.array([pair for pair in zip(x, y) if all(map(math.isfinite, pair))])
    if len(pairs) < 4 or any(len(set(column)) == 1 for column in pairs.T):
        return math.nan
    return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def number(value: float) -> str:
    """Return a number with two digits: 1.3e+03, 0.42, 12."""
    return f"{value:.2g}"
