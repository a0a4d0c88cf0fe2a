# Twin of PINN/pinn/density.py - edit there and run: python experiments/twins.py --fix
"""The spectral density of a matrix by stochastic Lanczos quadrature, and the share of eigenvalues in an interval.

    (1/p) sum_i f(lambda_i) = E[v' f(A) v] ~ mean over probes of sum_k w_k f(theta_k)

with nodes theta_k and weights w_k of Gauss quadratures (spectrum.py makes them), which are exact for polynomials up to
degree 2 m - 1 (Ubaru, Chen and Saad 2017, SIAM J. Matrix Anal. Appl. 38, 1075).

    share = density.mass_below(-1e-6 * norm)                   share.value, share.error, share.least, share.most
    x, phi = density.curve()                                   smoothed, integral 1
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SMOOTHING = 5e-5  # variance of the kernel of a curve over the range of the spectrum, as published


class Mass(NamedTuple):
    """A share of the eigenvalues: mean over the probes, its standard error, and what Lanczos can tell at all.

    The error is NaN for a single probe, and 0 where nothing is sampled.

    Sampling apart, the share lies between least and most, the bounds of Chebyshev, Markov and Stieltjes: no others
    follow from the same products. Where they are far apart, inside an unresolved cluster, the mean says nothing.
    """

    value: float
    error: float
    least: float
    most: float


@dataclass(frozen=True)
class Density:
    """The share of eigenvalues by their size: Gauss quadratures of independent probes, or all eigenvalues.

    nodes: (probes, m) float64, ascending, then NaN where a probe ended before m, which makes it exact for its start.
    weights: (probes, m) float64, those of a probe sum to 1; 0 at NaN.
    ends: (probes, m) beta_m S_mk sign(S_1k), in magnitude the residuals of the Ritz vectors; 0 where a probe is exact.
    exact: the nodes are all the eigenvalues, with weights 1 / p, in one row.
    """

    nodes: np.ndarray
    weights: np.ndarray
    ends: np.ndarray
    exact: bool = False

    @classmethod
    def of(cls, rules: Sequence[np.ndarray], m: int) -> "Density":
        """From nodes, weights and ends of each probe, (3, k) with k at most m."""
        arrays = np.zeros((3, len(rules), m))
        arrays[0] = np.nan
        for row, rule in enumerate(rules):
            arrays[:, row, : rule.shape[1]] = rule
        return cls(*arrays)

    def _mean(self, each: np.ndarray) -> tuple[float, float]:
        """Mean of a number a probe, (probes,), and its standard error."""
        error = 0.0 if self.exact else each.std(ddof=1) / math.sqrt(len(each)) if len(each) > 1 else math.nan
        return float(each.mean()), float(error)

    def _up_to(self, x: float, inclusive: bool) -> np.ndarray:
        """Weight of the nodes below x (or at it), and the least and the most that it can stand for, (3, probes)."""
        x = np.nextafter(x, math.inf if inclusive else -math.inf)
        return np.array([_weight_below(x, *row) for row in zip(self.nodes, self.weights, self.ends, strict=True)]).T

    def mass_below(self, x: float) -> Mass:
        """Share of eigenvalues below x."""
        value, least, most = self._up_to(x, False)
        return Mass(*self._mean(value), float(least.mean()), float(most.mean()))

    def mass_within(self, x: float) -> Mass:
        """Share of eigenvalues of magnitude at most x."""
        (value, least, most), (before, before_least, before_most) = self._up_to(x, True), self._up_to(-x, False)
        least, most = (least - before_most).clip(0), most - before_least
        return Mass(*self._mean(value - before), float(least.mean()), float(most.mean()))

    @property
    def ritz_values(self) -> int:
        """Number of nodes, over all probes."""
        return int((~np.isnan(self.nodes)).sum())

    @property
    def ritz_negative_share(self) -> float:
        """Share of nodes below zero, not weighted.

        Published as the share of negative eigenvalues, which it is not: where many eigenvalues lie about zero, few
        nodes stand for them. Of all eigenvalues (exact) it counts the sign of rounding.
        """
        return float((self.nodes < 0).sum() / self.ritz_values)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Abscissas and the density there smoothed by a Gaussian, of variance 5e-5 times the range of the nodes.

        The sd is 0.7 for a range of 1e4. Below a range of 1, where the published variance stays at 5e-5 and covers the
        whole spectrum, it is 0.007 times the range. Abscissas are multiples of a quarter of it, up to 8 of it from some
        node: elsewhere it is zero. The integral is 1. (A margin of 1e-3, as published, halves the outer peaks.)
        """
        there = self.weights > 0
        nodes, weights = self.nodes[there], self.weights[there] / len(self.weights)
        extent = max(np.ptp(nodes), 1e-3 * np.abs(nodes).max()) or 1.0
        sd = math.sqrt(SMOOTHING * extent * min(extent, 1.0))
        near = np.rint(nodes / (sd / 4))[:, None] + np.arange(-32, 33)
        places, of_node = np.unique(near, return_inverse=True)
        x, phi = places * (sd / 4), np.zeros(len(places))
        kernels = np.exp(-(((near * (sd / 4) - nodes[:, None]) / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi))
        np.add.at(phi, of_node.reshape(near.shape), weights[:, None] * kernels)
        return x, phi


def _weight_below(x: float, nodes: np.ndarray, weights: np.ndarray, ends: np.ndarray) -> tuple[float, float, float]:
    """Weight of one quadrature's nodes below x, and bounds of what is below x of any measure that has this quadrature.

    They are the weights without and with the node at x of the Gauss-Radau rule with one node more, at x (Golub and
    Meurant 2010, Matrices, Moments and Quadrature, section 6.2): T has one row more, with the corner that makes x an
    eigenvalue. Eigenvalues interlace, so that as many are below x as there are nodes below x.
    """
    nodes, weights, ends = (array[~np.isnan(nodes)] for array in (nodes, weights, ends))
    count = int((nodes < x).sum())
    value = weights[:count].sum()
    if not ends.any():
        return value, value, value
    with np.errstate(divide="ignore", invalid="ignore"):
        corner = x - np.where(ends == 0, 0.0, ends**2 / (x - nodes)).sum()
    limit = 1e8 * max(abs(x), np.abs(nodes).max(), np.abs(ends).max())  # next to a node: beyond it rounding takes over
    bordered = np.diag(np.append(nodes, np.clip(corner, -limit, limit)))
    bordered[-1, :-1] = bordered[:-1, -1] = ends
    sums = np.cumsum((np.sqrt(weights) @ np.linalg.eigh(bordered).eigenvectors[:-1]) ** 2)
    return value, sums[count - 1] if count else 0.0, sums[count]
