"""Significance of paired differences: t-test, exact sign-flip test, adjustment for many tests.

    p_t    = P(|T_{k-1}| >= |mean d| / (s / sqrt k))                      Student, two-sided
    p_flip = #{signs in {-1, 1}^k : |sum signs d| >= |sum d|} / 2^k       exact, two-sided (Fisher)
    p_(i) -> min over j >= i of p_(j) m / j                               Benjamini and Hochberg (1995)

The t-test assumes normal differences; the sign-flip test only that they are symmetric about 0 where there
is no effect, for which few pairs pay: it cannot give less than 2^(1-k). Of the cells that are called
significant at an adjusted 0.05, a share of 0.05 at most is expected to be so by chance. This is proved for
tests that are independent or positively dependent; cells that share seeds are taken for the latter.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtr  # scipy.stats has all three, and takes seconds to import

MOST_PAIRS = 20  # 2^20 sign patterns are enumerated in a moment; with so many pairs the t-test serves


def t_test(d: np.ndarray) -> float:
    """Return the two-sided p of mean 0; NaN for fewer than two numbers, and where all are equal to rounding."""
    d = np.asarray(d, float)
    if d.size < 2 or np.ptp(d) <= 1e-12 * np.abs(d).max():
        return math.nan
    t = d.mean() / (d.std(ddof=1) / math.sqrt(d.size))
    return float(2 * stdtr(d.size - 1, -abs(t)))


def sign_flip(d: np.ndarray) -> float:
    """Return the exact two-sided p of symmetry about 0; NaN without numbers, and for more than 20."""
    d = np.asarray(d, float)
    if not 0 < d.size <= MOST_PAIRS:
        return math.nan
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    # Patterns that tie with the observed one may differ from it by rounding.
    return float((np.abs(sums) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()).mean())


def smallest_p(pairs: int) -> float:
    """Return the least p that `sign_flip` can give; NaN where it gives none."""
    return 2.0 ** (1 - pairs) if 0 < pairs <= MOST_PAIRS else math.nan


def adjust(ps: np.ndarray) -> np.ndarray:
    """Return p-values adjusted for the false discovery rate; NaN stays NaN and is not counted as a test."""
    ps = np.asarray(ps, float)
    adjusted = np.full(ps.shape, np.nan)
    known = np.flatnonzero(~np.isnan(ps))
    order = known[np.argsort(-ps[known])]  # largest first
    ranks = np.arange(order.size, 0, -1)
    adjusted[order] = np.minimum(np.minimum.accumulate(ps[order] * known.size / ranks), 1.0)
    return adjusted
