#!/usr/bin/env python3
"""Time of one L-BFGS iteration of a PINN (1D convection, four hidden layers of 50, float32, history 100).

(a) a plain implementation: separate inputs x and t, one nested `autograd.grad` for each, `torch.optim.LBFGS`;
(b) PINN/ with one run; (c) PINN/ with many runs side by side, per run.

All three are measured in turns, so that a busy machine slows them alike; the table has medians, and ratios of medians.
Histories are filled beforehand by 110 iterations at N_f = 100.

    python experiments/benchmarks/pinn_step.py                    # about 8 minutes on two cores
    python experiments/benchmarks/pinn_step.py --sizes 100 1000 --runs 40 --device cuda
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "PINN"))
from pinn.data import Grid
from pinn.model import MLP
from pinn.objective import Objective
from pinn.optimizers.lbfgs import LBFGS
from pinn.pdes import SYSTEMS
from pinn.session import keep_freed_memory

BETA, HIDDEN = 30.0, [50] * 4


class Contender:
    """An optimizer, its closures by N_f, and how many runs it walks together at each (as in training)."""

    def __init__(self, optimizer: torch.optim.Optimizer, closures: dict[int, Callable],
                 groups: dict[int, int] | None = None) -> None:
        self.optimizer, self.closures, self.groups = optimizer, closures, groups

    def done(self) -> int:
        """Iterations of all runs so far."""
        state = self.optimizer.state[self.optimizer.param_groups[0]["params"][0]]
        return int(torch.as_tensor(state.get("n_iter", 0)).sum())

    def step(self, n: int, iterations: int) -> float:
        """Milliseconds an iteration a run, over one call of the optimizer."""
        options = self.optimizer.param_groups[0]
        options["max_iter"], options["max_eval"] = iterations, 10 * iterations
        if self.groups:
            self.optimizer.group_size = self.groups[n]
        synchronize()
        before, start = self.done(), time.perf_counter()
        self.optimizer.step(self.closures[n])
        synchronize()
        return 1e3 * (time.perf_counter() - start) / max(self.done() - before, 1)


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def objective(n: int, runs: int, device: str) -> Objective:
    """The loss of `runs` networks at n collocation points."""
    system = SYSTEMS["convection"]
    return Objective(system, [BETA] * runs, {}, n, [0] * runs, Grid(system.x_range), device=device)


def ours(sizes: list[int], runs: int, device: str) -> Contender:
    """PINN/ with `runs` networks, seeds 0, 1, 2, ..."""
    params = list(MLP(range(runs), HIDDEN, device=device).parameters())
    losses = {n: objective(n, runs, device) for n in sizes}
    optimizer = LBFGS(params, history_size=100, tolerance_change=0.0)

    def closure(n: int) -> Callable:
        return lambda: losses[n].backward(params, optimizer.active.nonzero().flatten())
    groups = {n: runs if device.startswith("cuda") else min(8, losses[n].runs_a_block) for n in sizes}
    return Contender(optimizer, {n: closure(n) for n in sizes}, groups)


def plain(sizes: list[int], device: str) -> Contender:
    """What one writes first, on the same points and initial weights."""
    ready = MLP([0], HIDDEN, device=device)
    layers: list[torch.nn.Module] = []
    for weight, bias in zip(ready.weights, ready.biases, strict=True):
        linear = torch.nn.Linear(*weight.shape[1:], device=device)
        linear.weight.data, linear.bias.data = weight.data[0].T.contiguous(), bias.data[0, 0].clone()
        layers += [linear, torch.nn.Tanh()]
    net = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.LBFGS(net.parameters(), lr=1.0, history_size=100, tolerance_grad=1e-7,
                                  tolerance_change=0.0, line_search_fn="strong_wolfe")

    def closure(n: int) -> Callable:
        problem = objective(n, 1, device)
        x, t = (problem.interior[0][:, k:k + 1].clone().requires_grad_() for k in (0, 1))
        points = problem.condition_points[0]
        ic, upper, lower = points[:257], points[257:358], points[358:]
        target = torch.sin(ic[:, :1])

        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            u = net(torch.cat([x, t], 1))
            u_t = torch.autograd.grad(u, t, torch.ones_like(u), create_graph=True, retain_graph=True)[0]
            u_x = torch.autograd.grad(u, x, torch.ones_like(u), create_graph=True, retain_graph=True)[0]
            loss = ((u_t + BETA * u_x) ** 2).mean() + ((net(upper) - net(lower)) ** 2).mean()
            loss = loss + ((net(ic) - target) ** 2).mean()
            loss.backward()
            return loss
        return evaluate
    return Contender(optimizer, {n: closure(n) for n in sizes})


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000, 15000], help="N_f")
    parser.add_argument("--runs", type=int, default=40, help="networks side by side in (c)")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each, in turns "
                        "(at most 3 from N_f = 5000 on)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed_memory()  # for all three alike
    sizes = sorted({100, *args.sizes})
    contenders = [plain(sizes, args.device), ours(sizes, 1, args.device), ours(sizes, args.runs, args.device)]
    for contender in contenders:
        contender.step(100, 110)
    gpu = args.device.startswith("cuda")
    device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device}; milliseconds an L-BFGS iteration a run, medians")
    print(f"{'N_f':>6} {'(a) plain':>10} {'(b) R = 1':>10} {f'(c) R = {args.runs}':>11}"
          f" {'a / b':>7} {'b / c':>7} {'a / c':>7}")
    for n in args.sizes:
        times: list[list[float]] = [[], [], []]
        for _ in range(args.repeats if n < 5000 else min(args.repeats, 3)):
            for contender, found in zip(contenders, times, strict=True):
                found.append(contender.step(n, 20))
        a, b, c = (statistics.median(found) for found in times)
        print(f"{n:>6} {a:>10.2f} {b:>10.2f} {c:>11.2f} {a / b:>7.2f} {b / c:>7.2f} {a / c:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
