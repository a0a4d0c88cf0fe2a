"""What the paper says that a figure shows, beside what the runs show: a claim, numbers, and whether it holds.

    rises = Claim("lambda_max rises while the loss falls", "lambda_max at least doubles, the loss at least halves")
    Check(rises, "lambda_max x 4.6, loss x 3e-5", all_of([above(4.6, 1, 2), above(1, 3e-5, 2)]))

Whether a claim holds is computed from the numbers by the module of the figure: True, False, or None where it cannot be
told. A claim on several runs holds when it does in all of them and none is missing; one of them is enough to refute it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

VERDICTS = {True: "holds", False: "does not hold", None: "cannot be told"}
CLOSE = "too close to tell"


@dataclass(frozen=True)
class Claim:
    """What is claimed, the rule that decides, and who claims it.

    absolute: it is on how large a number is, which nothing but the paper's networks and data can show.
    """

    text: str
    rule: str
    source: str = "paper"
    absolute: bool = False


@dataclass(frozen=True)
class Check:
    """One claim, what the runs show in words, whether they agree with it, and why that cannot be told if so."""

    claim: Claim
    here: str
    holds: bool | None
    why: str = CLOSE

    @property
    def verdict(self) -> str:
        """The verdict in words, with the reason where there is none."""
        return VERDICTS[self.holds] + (f": {self.why}" if self.holds is None else "")


def untold(claims: Iterable[Claim], why: str) -> list[Check]:
    """Return checks that cannot be told, as something is missing."""
    return [Check(claim, "", None, why) for claim in claims]


def format_checks(checks: Iterable[Check]) -> list[str]:
    """Return the lines that `figures.py` prints: the claim, the numbers, the verdict, what decided."""
    lines = []
    for check in checks:
        lines.append(f"  {check.claim.source}: {check.claim.text}")
        lines += [f"    here: {check.here}"] * bool(check.here)
        lines += [f"    {check.verdict}", f"    criterion: {check.claim.rule}"]
    return lines


def rows(checks: Iterable[Check]) -> list[dict[str, str]]:
    """Return the checks as rows of a table."""
    return [
        {"source": one.claim.source, "claim": one.claim.text, "here": one.here, "verdict": VERDICTS[one.holds],
         "why": one.why if one.holds is None else "", "criterion": one.claim.rule} for one in checks
    ]  # fmt: skip


# ---- verdicts ----------------------------------------------------------------------------------------------------


def all_of(parts: Iterable[bool | None], missing: str = "") -> bool | None:
    """Return whether all parts hold: one that does not is enough; else None if one cannot be told or is `missing`."""
    parts = list(parts)
    if False in parts:
        return False
    return None if missing or None in parts or not parts else True


def above(high: float, low: float, factor: float) -> bool | None:
    """Return whether one number, not negative, is above another; None where they are within a factor."""
    if high > factor * low:
        return True
    return False if low > factor * high else None


def beyond_noise(gap: float, error: float, alone: float = math.inf) -> bool | None:
    """Return whether a difference is positive; None within two standard errors of it, or within `alone` if it has none.

    Args:
        gap: the difference.
        error: its standard error; NaN: unknown, as of single seeds.
        alone: what the difference has to exceed then.
    """
    return None if abs(gap) <= (alone if math.isnan(error) else 2 * error) else gap > 0


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean over seeds; NaN for one."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return Spearman's rank correlation and its p-value over the pairs without a NaN; infinite is high.

    NaN, NaN for fewer than five pairs or constants.
    """
    pairs = np.array([pair for pair in zip(x, y) if not any(map(math.isnan, pair))])
    if len(pairs) < 5 or any(len(set(column)) == 1 for column in pairs.T):
        return math.nan, math.nan
    found = stats.spearmanr(stats.rankdata(pairs[:, 0]), stats.rankdata(pairs[:, 1]))
    return float(found.statistic), float(found.pvalue)


def number(value: float) -> str:
    """Return a number with two digits: 1.3e+03, 0.42, 12."""
    return f"{value:.2g}"
