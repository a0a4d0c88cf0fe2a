# Twin of PINN/pinn/optimizers/line_search.py - edit there and run: python experiments/twins.py --fix
"""Line search for the strong Wolfe conditions (Nocedal and Wright 2006, section 3.5), as a generator.

    phi(t) = f(x + t d):    phi(t) <= phi(0) + c1 t phi'(0),        |phi'(t)| <= c2 |phi'(0)|

It asks for evaluations instead of making them, so one batched evaluation can serve the searches of many runs.
"""

import math
from collections.abc import Generator
from typing import NamedTuple

from torch import Tensor


class Point(NamedTuple):
    """A trial on the search line: step, loss, slope g . d and the gradient (p,) there."""

    t: float
    loss: float
    slope: float
    grad: Tensor


def strong_wolfe(start: Point, t: float, scale: float, tolerance: float, c1: float = 1e-4, c2: float = 0.9,
                 max_trials: int = 25) -> Generator[float, Point, Point]:
    """Line search for the strong Wolfe conditions, as a generator (Nocedal and Wright 2006, algorithms 3.5 and 3.6).

    Yields a trial step and is sent the `Point` there; returns the accepted point, the start itself if there is none
    better. Trials are chosen as torch's `_strong_wolfe` chooses them: cubic interpolation, kept away from the ends of
    the bracket. A non-finite trial moves half way back to the last finite one.

    Args:
        start: the point at t = 0, with negative slope.
        t: first trial.
        scale: max |d|; the search ends when the bracket moves no weight by more than `tolerance`.
    """
    def too_high(point: Point) -> bool:
        return point.loss > start.loss + c1 * point.t * start.slope

    def flat_enough(point: Point) -> bool:
        return abs(point.slope) <= -c2 * start.slope

    trials = 0
    old, new = start, (yield t)
    while True:  # walk out until a bracket holds an acceptable point
        while not (math.isfinite(new.loss) and math.isfinite(new.slope)):
            if trials == max_trials:
                return start
            trials += 1
            new = yield (old.t + new.t) / 2
        if trials == max_trials:
            old = start
            break
        if too_high(new) or (trials > 1 and new.loss >= old.loss):
            break
        if flat_enough(new):
            return new
        if new.slope >= 0:
            break
        t = cubic_minimum(old, new, new.t + 0.01 * (new.t - old.t), 10 * new.t)
        trials += 1
        old, new = new, (yield t)

    low, high = (old, new) if old.loss <= new.loss else (new, old)
    near_end = False
    while trials < max_trials:  # shrink the bracket; `low` is always its better end
        left, right = min(low.t, high.t), max(low.t, high.t)
        if left == right or (right - left) * scale < tolerance:
            break
        t = cubic_minimum(low, high, left, right)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:  # twice in a row near an end, or outside: insist on some progress
            if near_end or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                near_end = False
            else:
                near_end = True
        else:
            near_end = False
        trials += 1
        new = yield t
        if not math.isfinite(new.loss) or too_high(new) or new.loss >= low.loss:
            high = new
            if not math.isfinite(new.loss):
                high = new._replace(loss=math.inf, slope=math.inf)
        elif flat_enough(new):
            return new
        else:
            if new.slope * (high.t - low.t) >= 0:
                high = low
            low = new
    return low


def cubic_minimum(a: Point, b: Point, lower: float, upper: float) -> float:
    """Minimiser of the cubic through two points with their slopes, kept in [lower, upper]; the middle if it has none.

    Nocedal and Wright 2006, eq. 3.59.
    """
    if a.t > b.t:
        a, b = b, a
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    d2 = math.sqrt(square) if square >= 0 else math.nan
    curvature = b.slope - a.slope + 2 * d2
    if not abs(curvature) > 0:  # no minimum, or a straight line
        return (lower + upper) / 2
    return min(max(b.t - (b.t - a.t) * (b.slope + d2 - d1) / curvature, lower), upper)
