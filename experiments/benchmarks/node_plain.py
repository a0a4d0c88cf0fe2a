#!/usr/bin/env python3
"""The plain way to train the pendulum NODE and PINODE: one network, one cell (1/b, T), one batch at a time.

Written from the published settings, as what to compare NeuralODE/ with. theta'' + b theta' + sin theta = 0 from rest
at theta = 1.7, labels of `solve_ivp` every 0.05, an MLP of 3 x 16 that learns forward Euler steps between neighbouring
labels, each step through `torchdiffeq.odeint`, in float32. Mode "none" has the data term alone, on the unit sphere;
mode "pinn" adds the residual f - F at the same labels, in (theta, omega).

    python experiments/benchmarks/node_plain.py                   # Adam, 600 epochs: about 20 seconds
    python experiments/benchmarks/node_plain.py --inv_b 4 --horizon 5 --optimizer lbfgs
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch.utils.data import DataLoader, TensorDataset
from torchdiffeq import odeint

DT, BATCH, WIDTH = 0.05, 32, 16
TRAIN_START, TEST_START, TEST_HORIZON = (1.7, 0.0), (2.8, 0.0), 20.0
STATES = {"none": "embedded", "pinn": "raw"}  # state of each mode


def trajectory(start: tuple[float, float], b: float, horizon: float, dt: float = DT) -> np.ndarray:
    """States (theta, omega) at 0, dt, 2 dt, ... < horizon, [K, 2], by RK45 at its default tolerances."""
    times = dt * np.arange(round(horizon / dt))
    found = solve_ivp(lambda t, y: [y[1], -b * y[1] - np.sin(y[0])], (0.0, horizon), start, t_eval=times)
    return found.y.T


def embed(states: np.ndarray) -> np.ndarray:
    """Points of the unit sphere, [K, 3]; omega is used as an angle."""
    theta, omega = states.T
    return np.stack([np.sin(theta) * np.cos(omega), np.sin(theta) * np.sin(omega), -np.cos(theta)], axis=1)


def network(dim: int, seed: int) -> torch.nn.Sequential:
    """MLP dim-16-16-16-dim with tanh and the default initial weights of `torch.nn.Linear`."""
    torch.manual_seed(seed)
    sizes = [dim, WIDTH, WIDTH, WIDTH, dim]
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:]):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


class Cell:
    """A network with its training and test trajectory."""

    def __init__(self, inv_b: float, horizon: float, seed: int = 0, mode: str = "pinn", lam: float = 1.0) -> None:
        self.b, self.mode, self.lam = 1.0 / inv_b, mode, lam
        self.train, self.test = (self.states(*which) for which in
                                 ((TRAIN_START, horizon), (TEST_START, TEST_HORIZON)))
        self.net = network(self.train.shape[1], seed)

    def states(self, start: tuple[float, float], horizon: float, dt: float = DT) -> torch.Tensor:
        """Labels in the state of the mode, float32."""
        found = trajectory(start, self.b, horizon, dt)
        return torch.tensor(embed(found) if STATES[self.mode] == "embedded" else found, dtype=torch.float32)

    def velocity(self, x: torch.Tensor) -> torch.Tensor:
        """The true right-hand side F at (theta, omega)."""
        theta, omega = x[:, 0], x[:, 1]
        return torch.stack([omega, -self.b * omega - torch.sin(theta)], dim=1)

    def step(self, x: torch.Tensor, dt: float = DT) -> torch.Tensor:
        """One Euler step of the network."""
        return odeint(lambda t, y: self.net(y), x, torch.tensor([0.0, dt]), method="euler")[-1]

    def rollout(self, horizon: float, dt: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Prediction of the test trajectory from its start, a step at a time, and the trajectory."""
        states = self.states(TEST_START, horizon, dt)
        predicted = [states[:1]]
        for _ in range(len(states) - 1):
            predicted.append(self.step(predicted[-1], dt))
        return torch.cat(predicted), states

    def terms(self, x: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Data and physics loss (zero in mode "none") of the pairs x -> target."""
        data = torch.nn.functional.mse_loss(self.step(x), target)
        if self.mode == "none":
            return data, torch.zeros(())
        return data, DT ** 2 * ((self.net(x) - self.velocity(x)) ** 2).mean()

    def loss(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What is minimized."""
        data, physics = self.terms(x, target)
        return data + self.lam * physics


def train_adam(cell: Cell, epochs: int = 600, updates_per_epoch: int = 13, lr: float = 1e-3,
               scale: float = 1.0) -> None:
    """Adam over batches in the order of time; an epoch starts at the first one and repeats them as often as needed.

    The published number of updates is that of the longest horizon of a sweep, 13 for T = 20. `scale` multiplies the
    loss.
    """
    loader = DataLoader(TensorDataset(cell.train[:-1], cell.train[1:]), batch_size=BATCH, shuffle=False)
    optimizer = torch.optim.Adam(cell.net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.995)
    for _ in range(epochs):
        batches = iter(loader)
        for _ in range(updates_per_epoch):
            try:
                x, target = next(batches)
            except StopIteration:
                batches = iter(loader)
                x, target = next(batches)
            optimizer.zero_grad()
            (scale * cell.loss(x, target)).backward()
            optimizer.step()
        schedule.step()


def train_lbfgs(cell: Cell, max_iter: int = 1000, scale: float = 1.0, history: int = 50, tolerance_change: float = 1e-9,
                a_call: int | None = None) -> tuple[int, int]:
    """L-BFGS on the full batch; its iterations and evaluations.

    `scale` multiplies the loss. At the published 1 it ends near 1e-6, where the tolerances stop a run after some 50
    iterations, and where exactly depends on rounding; 1 / DT**2 lets it come within a few per cent of the minimum.
    One call of the optimizer as published, or calls of `a_call` iterations until one moves no weight.
    """
    parameters = list(cell.net.parameters())
    optimizer = torch.optim.LBFGS(parameters, lr=1.0, max_iter=a_call or max_iter, history_size=history,
                                  tolerance_grad=1e-7, tolerance_change=tolerance_change,
                                  line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = scale * cell.loss(cell.train[:-1], cell.train[1:])
        loss.backward()
        return loss
    state = optimizer.state[parameters[0]]
    while True:
        before = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
        optimizer.step(closure)
        moved = not torch.equal(before, torch.nn.utils.parameters_to_vector(parameters))
        if a_call is None or not moved or state["n_iter"] >= max_iter:
            return state["n_iter"], state["func_evals"]


@torch.no_grad()
def evaluate(cell: Cell) -> dict[str, float]:
    """One-step errors on both trajectories (data term alone), and of Euler rollouts over the test trajectory.

    The published five rollouts, each a step at a time: the relative L2 error over the samples after the first of each
    component, averaged over the components; `mean_` the mean over all samples of the error relative to the state.
    """
    found = {f"{name}_mse": float(torch.nn.functional.mse_loss(cell.step(states[:-1]), states[1:]))
             for name, states in (("train", cell.train), ("test", cell.test))}
    for name, horizon, dt in (("", TEST_HORIZON, DT), ("_dt050_hor10", 10.0, 0.5), ("_dt005_hor15", 15.0, DT)):
        predicted, states = cell.rollout(horizon, dt)
        error = (predicted - states)[1:].norm(dim=0) / states[1:].norm(dim=0)
        found[f"test_rollout_l2{name}"] = float(error.mean())
    for name, horizon in (("_window", 10.0), ("_t0_20", 20.0)):
        predicted, states = cell.rollout(horizon, DT)
        found[f"mean_rel{name}"] = float(((predicted - states).norm(dim=1) / states.norm(dim=1)).mean())
    return found


TRAINERS: dict[str, Callable] = {"adam": train_adam, "lbfgs": train_lbfgs}


def main() -> None:
    """Train one cell and print its errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inv_b", type=float, default=8.0, help="1/b")
    parser.add_argument("--horizon", type=float, default=20.0, help="T")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=list(STATES), default="pinn")
    parser.add_argument("--optimizer", choices=list(TRAINERS), default="adam")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cell = Cell(args.inv_b, args.horizon, args.seed, args.mode)
    TRAINERS[args.optimizer](cell)
    print("  ".join(f"{name} {value:.3e}" for name, value in evaluate(cell).items()))


if __name__ == "__main__":
    main()
