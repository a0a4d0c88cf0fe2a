"""The damped pendulum theta'' + b theta' + sin theta = 0 (unit mass, g / L = 1): vector field, trajectories, embedding.

The state is (theta, omega), omega = theta'; a regime map sweeps 1/b and the horizon T. Each cell has one trajectory to
train on and one to test on; the latter starts outside the former.
"""

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

TRAIN_START = (1.7, 0.0)
TEST_START = (2.8, 0.0)

# "paper" is what solve_ivp does when nothing is asked for. Its trajectories are up to 0.06 off (test start, 1/b = 15,
# 20 s) and, as the last step is cut at the horizon, depend on T by about 1e-4. "tight" is good to 2e-9.
TOLERANCES: Mapping[str, Mapping[str, str | float]] = {
    "paper": {"method": "RK45", "rtol": 1e-3, "atol": 1e-6},
    "tight": {"method": "DOP853", "rtol": 1e-10, "atol": 1e-12},
}


def vector_field(state: Tensor | np.ndarray, b: Tensor | np.ndarray | float) -> Tensor | np.ndarray:
    """F = (omega, -b omega - sin theta), (..., 2), at states (..., 2); b broadcasts to (...). Arrays and tensors."""
    lib = torch if isinstance(state, Tensor) else np
    theta, omega = state[..., 0], state[..., 1]
    return lib.stack([omega, -b * omega - lib.sin(theta)], -1)


def embed(state: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """(sin theta cos omega, sin theta sin omega, -cos theta), (..., 3), of states (..., 2); points of the unit sphere.

    It takes omega for an angle and so is not injective: (-theta, omega + pi) has the image of (theta, omega), and at
    theta = 0 omega is lost.
    """
    lib = torch if isinstance(state, Tensor) else np
    theta, omega = state[..., 0], state[..., 1]
    return lib.stack([lib.sin(theta) * lib.cos(omega), lib.sin(theta) * lib.sin(omega), -lib.cos(theta)], -1)


def count_samples(horizon: float, dt: float) -> int:
    """Number of the times 0, dt, 2 dt, ... < horizon; a horizon that is a multiple of dt up to rounding is left out."""
    return math.ceil(horizon / dt - 1e-9)


@functools.lru_cache(maxsize=4096)
def trajectory(inv_b: float, horizon: float, dt: float, start: tuple[float, float],
               tolerance: str = "paper") -> np.ndarray:
    """States (K, 2) at the times 0, dt, ... < horizon, float64 and read-only, by `solve_ivp` over (0, horizon).

    Raises:
        ValueError: for numbers that are not finite, or 1/b, horizon or dt not positive.
        RuntimeError: when the solver gives up.
    """
    # solve_ivp does not return from a field that is NaN.
    if not (inv_b > 0 and 0 < horizon < math.inf and 0 < dt < math.inf and np.isfinite(start).all()):
        raise ValueError(f"no trajectory for 1/b = {inv_b:g}, horizon {horizon:g}, dt {dt:g}, start {start}")
    times = dt * np.arange(count_samples(horizon, dt))
    found = solve_ivp(lambda _, state: vector_field(state, 1 / inv_b), (0.0, horizon), start, t_eval=times,
                      **TOLERANCES[tolerance])
    if not found.success:
        raise RuntimeError(f"no trajectory for 1/b = {inv_b:g}, horizon {horizon:g}, start {start}: {found.message}")
    states = np.ascontiguousarray(found.y.T)
    states.flags.writeable = False
    return states
