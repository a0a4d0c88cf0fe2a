"""Floors J*: the smallest training loss that any network can have on a field, because D u_i is not g_i (`residual.py`).

    J*_i = min over u, 0 on the boundary, of xy_loss d + f_loss p,  d = ||u - u_i|| / ||u_i||,  p = ||D u - g|| / ||f||

With e = u - u_i, c = D u_i - g, A = xy_loss/||u_i||, B = f_loss/||f||, the problem and its dual are

    min_e  A ||e|| + B ||D e + c||   =   max_y  y.c   subject to  ||y|| <= B,  ||D^T y|| <= A.

Away from the ends e = -m D^T s, y = B s/||s|| with s(m) = (1 + m K)^{-1} c, K = D D^T, and m > 0 is where the Rayleigh
quotient s.K s / s.s, which falls with m, is (A/B)^2: Newton's method in log m, a banded Cholesky factorisation a step.
Where it never is, the minimum is at an end: e = 0 (m = 0) or D u = g (m = infinity, s = K^{-1} c).

Results are kept beside the data: `<data>.floors_<kind>_<stride>_<xy_loss>_<f_loss>.npz`.
"""

from __future__ import annotations

import json
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import cho_solve_banded, cholesky_banded

from .fields import Fields
from .files import atomic_write, strict
from .residual import Residual
from .session import Progress

TOLERANCE = 1e-9  # of the logarithm of the Rayleigh quotient
LONGEST = 7.0  # step in log m
SAVE_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Floors:
    """J*, and d and p where it is attained, (n,) float64 each."""

    loss: np.ndarray
    d: np.ndarray
    p: np.ndarray


class Banded:
    """1 + m K as a banded matrix, K = D D^T with the rows of D one decoupled sub-lattice after the other."""

    def __init__(self, matrix: sparse.csr_array) -> None:
        product = sparse.coo_array(sparse.tril(matrix @ matrix.T))
        self._band = np.zeros((int((product.row - product.col).max()) + 1, matrix.shape[0]))
        self._band[product.row - product.col, product.col] = product.data

    def solver(self, m: float) -> Callable[[np.ndarray], np.ndarray]:
        """x -> (1 + m K)^{-1} x; with m = inf, x -> K^{-1} x."""
        band = self._band.copy() if math.isinf(m) else m * self._band
        if not math.isinf(m):
            band[0] += 1
        factor = cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)
        return lambda x: cho_solve_banded((factor, True), x, check_finite=False)


def minimum(matrix: sparse.csr_array, c: np.ndarray, a: float, b: float, guess: float = 1.0
            ) -> tuple[np.ndarray, np.ndarray, float]:
    """Minimise a ||e|| + b ||D e + c||.

    Args:
        matrix: D (rows, n), of full rank, its rows in an order that makes D D^T banded.
        c: (rows,).
        a, b: weights, at least 0 and not both 0.
        guess: of the multiplier m.

    Returns:
        e (n,); y (rows,) that solves the dual problem: a ||e|| + b ||D e + c|| - y.c bounds the error; m, which is 0
        where e = 0 and inf where D e = -c.
    """
    transposed = matrix.T.tocsr()

    def excess(s: np.ndarray, back: np.ndarray) -> float:
        """Of the logarithm of the Rayleigh quotient."""
        return 2 * math.log(np.linalg.norm(back) / np.linalg.norm(s) * (b / a))

    def nearest() -> tuple[np.ndarray, np.ndarray]:
        s = banded.solver(math.inf)(c)
        return s, transposed @ s

    if not b or not c.any() or (a and excess(c, transposed @ c) <= 0):
        return np.zeros(matrix.shape[1]), b * c / max(np.linalg.norm(c), np.finfo(float).tiny), 0.0
    banded = Banded(matrix)
    if not a:
        return -nearest()[1], np.zeros_like(c), math.inf
    log_m, low, high = math.log(guess), -math.inf, math.inf
    for _ in range(100):
        solve = banded.solver(math.exp(log_m))
        s = solve(c)
        back = transposed @ s
        over = excess(s, back)
        if abs(over) < TOLERANCE or high - low < TOLERANCE:
            return -math.exp(log_m) * back, b * s / np.linalg.norm(s), math.exp(log_m)
        low, high = (log_m, high) if over > 0 else (low, log_m)
        ks = matrix @ back
        slope = -2 * math.exp(log_m) * solve(ks) @ (ks / (back @ back) - s / (s @ s))
        flat = -slope * LONGEST < abs(over)
        step = math.copysign(LONGEST, over) if flat else -over / slope
        if flat and high == math.inf:  # is there a zero at all?
            s, back = nearest()
            if excess(s, back) >= 0:
                return -back, (a / np.linalg.norm(back)) * s, math.inf
        inside = low < log_m + step < high
        log_m = log_m + step if inside else (low + high) / 2
    raise ArithmeticError("the multiplier of a floor was not found")


# ---- data sets -----------------------------------------------------------------------------------


def floors(fields: Fields, kind: str, stride: int, xy_loss: float = 5.0, f_loss: float = 1.0,
           count: int | None = None) -> Floors:
    """J*, d and p of the first `count` (default: all) fields, from the file beside the data as far as it has them.

    A field takes 0.05 s on 61 x 61 nodes. What is new is added to the file, where that can be written. `corrected`
    vanishes at the solutions, so that its floors are 0.

    Args:
        kind, stride: of the residual; the stride is that of `fields.u`.
        xy_loss, f_loss: weights of d and p, at least 0 and not both 0.

    Raises:
        ValueError: for another stride than that of `fields.u`, and what `Residual` raises.
    """
    if stride != fields.stride:
        raise ValueError(f"floors need solutions at stride {stride}; the data have every {fields.stride}-th node")
    fields = fields if count is None else fields.first(count)
    if kind == "corrected":
        return Floors(*np.zeros((3, len(fields))))
    path, marks = _path(fields, kind, stride, xy_loss, f_loss), _marks(fields)
    rows = _read(path, marks)
    if len(rows) < len(fields):
        rest = replace(fields, bits=fields.bits[len(rows):], u=fields.u[len(rows):])
        progress, saved = Progress(f"floors of {len(fields)} fields, residual {kind}"), time.monotonic()
        for row in _solve(Residual(kind, rest, stride, dtype=torch.float64), rest, xy_loss, f_loss):
            rows = np.concatenate([rows, [row]])
            if time.monotonic() - saved > SAVE_EVERY:
                _write(path, rows, marks)
                progress.update(len(rows), len(fields))
                saved = time.monotonic()
        progress.close()
        _write(path, rows, marks)
    return Floors(*rows.T)


def _solve(residual: Residual, fields: Fields, xy_loss: float, f_loss: float) -> Iterator[tuple[float, float, float]]:
    """(J*, d, p) of one field after the other."""
    order = residual.lattice()
    for row, u in enumerate(fields.u[:, 1:-1, 1:-1].astype(np.float64)):
        matrix, rhs = residual.matrix(row)
        matrix, c, size = matrix[order], (matrix @ u.ravel() - rhs)[order], np.linalg.norm(u)
        e, _, m = minimum(matrix, c, xy_loss / size, f_loss / residual.norm)
        d, p = np.linalg.norm(e) / size, 0.0 if m == math.inf else np.linalg.norm(matrix @ e + c) / residual.norm
        yield xy_loss * d + f_loss * p, d, p


def _path(fields: Fields, kind: str, stride: int, xy_loss: float, f_loss: float) -> Path | None:
    name = f".floors_{kind}_{stride}_{xy_loss:g}_{f_loss:g}.npz"
    return None if fields.source is None else fields.source.with_name(fields.source.name + name)


def _marks(fields: Fields) -> np.ndarray:
    """Checksums (n,) of what the floors of a field follow from."""
    values = [fields.size, fields.low, fields.high, fields.f, fields.stride, str(fields.u.dtype)]
    start = zlib.crc32(json.dumps(strict(values)).encode())
    return np.array([zlib.crc32(u.tobytes(), zlib.crc32(bits.tobytes(), start))
                     for bits, u in zip(fields.bits, fields.u)], dtype=np.uint32)


def _read(path: Path | None, marks: np.ndarray) -> np.ndarray:
    """(J*, d, p) (rows, 3) of a file, as far as it belongs to the data of `marks`."""
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        if path is not None:
            with np.load(path) as file:
                rows, found = file["rows"], file["marks"]
            same = min(len(marks), len(found))
            if rows.shape == (len(found), 3) and np.isfinite(rows).all():
                wrong = np.flatnonzero(marks[:same] != found[:same])
                return rows[:wrong[0] if len(wrong) else same]
    return np.empty((0, 3))


def _write(path: Path | None, rows: np.ndarray, marks: np.ndarray) -> None:
    """Keep the rows, unless another process has kept as many."""
    if path is not None and len(_read(path, marks)) < len(rows):
        with suppress(OSError):
            atomic_write(path, lambda file: np.savez(file, rows=rows, marks=marks[:len(rows)]))
