#!/usr/bin/env python3
"""Time of one Adam step of a PINO on 61 x 61 nodes: both loss terms, forward, backward, update.

(a) the published step: `rfft2` and `irfft2` of all modes, `einsum` with complex weights, 1x1 convolutions, a forward
for the data term and another, on another batch, for the residual, `torch.optim.Adam` over complex weights; (b) PINO/:
one forward for both terms (half of the work), Fourier matrices, modes mixed by a batched product of real pairs,
samples in blocks.

Both have the same weights, give the same output and loss (checked), and are measured in turns; the table has medians,
a ratio of medians, and how many runs of 15,000 steps fit into an hour.

    python experiments/benchmarks/pino_step.py                                     # about 70 seconds on one core
    python experiments/benchmarks/pino_step.py --device cuda --blocks 32
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "PINO"))
from pino.data import Samples
from pino.fields import Fields
from pino.model import PRESETS, FNO2d
from pino.objective import Objective
from pino.optimizers.adam import Adam
from pino.session import keep_freed_memory

NODES, STRIDE, STEPS = 421, 7, 15_000


class PlainSpectral(nn.Module):
    """FFT, two blocks of modes, inverse FFT; (B, width, S, S) to the same."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.upper, self.lower = (nn.Parameter(torch.empty(width, width, modes, modes, dtype=torch.cfloat))
                                  for _ in range(2))

    def forward(self, z: Tensor) -> Tensor:
        """S z."""
        m, spectrum = self.modes, torch.fft.rfft2(z)
        out = torch.zeros_like(spectrum)
        out[:, :, :m, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :m, :m], self.upper)
        out[:, :, -m:, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, -m:, :m], self.lower)
        return torch.fft.irfft2(out, s=z.shape[-2:])


class Plain(nn.Module):
    """The same network as FNO2d, written plainly."""

    def __init__(self, modes: int, width: int, head: tuple[int, int]) -> None:
        super().__init__()
        self.lift = nn.Linear(3, width)
        self.spectral = nn.ModuleList(PlainSpectral(width, modes) for _ in range(4))
        self.skips = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(4))
        self.head = nn.ModuleList(nn.Linear(*sizes) for sizes in ((width, head[0]), head, (head[1], 1)))

    def forward(self, inputs: Tensor) -> Tensor:
        """u (B, S, S) of a, x, y (B, S, S, 3)."""
        count, size = inputs.shape[:2]
        z = self.lift(inputs).permute(0, 3, 1, 2)
        for number, (spectral, skip) in enumerate(zip(self.spectral, self.skips)):
            z = spectral(z) + skip(z.reshape(count, z.shape[1], -1)).view(count, -1, size, size)
            z = F.gelu(z) if number < 3 else z
        z = z.permute(0, 2, 3, 1)
        for layer in self.head[:-1]:
            z = F.gelu(layer(z))
        sine = torch.sin(torch.pi * inputs[0, :, 0, 1])
        return 0.001 * torch.outer(sine, sine) * self.head[-1](z).squeeze(3)

    @torch.no_grad()
    def copy(self, other: FNO2d) -> None:
        """Take over the weights of FNO2d."""
        self.lift.load_state_dict(other.lift.state_dict())
        self.head.load_state_dict(other.head.state_dict())
        for mine, theirs in zip(self.skips, other.skips):
            mine.weight.copy_(theirs.weight[:, :, None])
            mine.bias.copy_(theirs.bias)
        for mine, theirs in zip(self.spectral, other.spectral_layers):
            weight = theirs.weight.permute(2, 4, 0, 1, 3)  # in, out, kx, ky, real and imaginary part
            weight = torch.view_as_complex(weight.contiguous())
            mine.upper.copy_(weight[:, :, :mine.modes])
            mine.lower.copy_(weight[:, :, mine.modes:])


def with_points(a: Tensor) -> Tensor:
    """a (B, S, S) with x and y, (B, S, S, 3)."""
    line = torch.linspace(0, 1, a.shape[1], device=a.device)
    x, y = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([a, x.expand_as(a), y.expand_as(a)], 3)


def data_term(u: Tensor, truth: Tensor) -> Tensor:
    """Mean of d."""
    return ((u - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).mean()


def pde_term(u: Tensor, a: Tensor, f: float = 1.0) -> Tensor:
    """Mean of p, published: central differences of a times central differences of u."""
    h = 1 / (u.shape[1] - 1)
    a = a[:, 1:-1, 1:-1]
    ax, ay = a * (u[:, 2:, 1:-1] - u[:, :-2, 1:-1]) / (2 * h), a * (u[:, 1:-1, 2:] - u[:, 1:-1, :-2]) / (2 * h)
    found = -(ax[:, 2:, 1:-1] - ax[:, :-2, 1:-1] + ay[:, 1:-1, 2:] - ay[:, 1:-1, :-2]) / (2 * h)
    return ((found - f).flatten(1).norm(dim=1) / torch.full_like(found, f).flatten(1).norm(dim=1)).mean()


def make_fields(count: int) -> Fields:
    """Signs of squares of 30 nodes, and a smooth u: the time of a step does not depend on them."""
    coarse = np.random.default_rng(0).random((count, 15, 15)) < 0.5
    signs = coarse.repeat(30, 1).repeat(30, 2)[:, :NODES, :NODES]
    sine = np.sin(np.pi * np.linspace(0, 1, NODES)[::STRIDE])
    u = np.tile(0.01 * np.outer(sine, sine), (count, 1, 1)).astype(np.float32)
    return Fields(np.packbits(signs.reshape(count, -1), axis=1), NODES, 3.0, 12.0, 1.0, u, STRIDE)


def published(model: FNO2d, samples: Samples, preset: dict, batch: int) -> tuple[Plain, Callable[[], Tensor]]:
    """The network with the weights of `model` and its step, which returns the loss before it."""
    plain = Plain(preset["modes"], preset["width"], preset["head"]).to(samples.a.device)
    plain.copy(model)
    optimizer, inputs = torch.optim.Adam(plain.parameters(), 1e-3), with_points(samples.a)

    def step() -> Tensor:
        first, second = slice(0, batch), slice(batch, 2 * batch)  # of two loaders
        optimizer.zero_grad()
        loss = 5 * data_term(plain(inputs[first]), samples.u[first]) + pde_term(plain(inputs[second]),
                                                                              samples.a[second])
        loss.backward()
        optimizer.step()
        return loss.detach()
    return plain, step


def ours(model: FNO2d, samples: Samples, batch: int, block: int) -> Callable[[], Tensor]:
    """The step of PINO/, which returns the loss (1,) before it."""
    objective = Objective(model, samples, samples, (5.0, 1.0), block, block)
    objective.batch = torch.arange(batch, device=samples.a.device)
    params = [p.detach().clone()[None].requires_grad_() for p in model.parameters()]
    optimizer, rows = Adam(params, 1e-3), torch.arange(1)
    return lambda: optimizer.step(lambda: objective.backward(params, rows))


def seconds(step: Callable[[], Tensor], gpu: bool) -> float:
    """Of one call."""
    if gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper", choices=PRESETS)
    parser.add_argument("--batch", type=int, default=32, help="samples a step and loss term (published: 32)")
    parser.add_argument("--blocks", type=int, nargs="+", default=[16], help="samples that go through (b) at a time")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each, in turns")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # for both alike
    gpu, preset = args.device.startswith("cuda"), dict(PRESETS[args.preset])
    device = torch.cuda.get_device_name() if gpu else f"CPU, {args.threads} thread{'s' * (args.threads > 1)}"
    samples = Samples(make_fields(2 * args.batch), "published", STRIDE, torch.device(args.device), torch.float32)
    model = FNO2d(**preset).to(args.device)
    plain, step = published(model, samples, preset, args.batch)
    with torch.no_grad():
        mine, theirs = model(samples.a[:2]), plain(with_points(samples.a[:2]))
        deviation = ((mine - theirs).norm() / theirs.norm()).item()
        d, p = samples.terms(model, torch.arange(2, device=args.device))
        plain_loss = 5 * data_term(theirs, samples.u[:2]) + pde_term(theirs, samples.a[:2])
    assert deviation < 1e-4, f"the networks differ by {deviation:.1e}"
    assert torch.isclose((5 * d + p).mean(), plain_loss, rtol=1e-4), "the losses differ"
    print(f"torch {torch.__version__}, {device}; preset {args.preset}, {sum(p.numel() for p in model.parameters()):,} "
          f"weights, batch {args.batch},\nmedians of {args.repeats}; outputs of (a) and (b) differ by {deviation:.0e}")
    steps = [step, *(ours(model, samples, args.batch, block) for block in args.blocks)]
    times: list[list[float]] = [[] for _ in steps]
    for repeat in range(args.repeats + 1):
        for one, found in zip(steps, times, strict=True):
            found += [seconds(one, gpu)] if repeat else [] if seconds(one, gpu) else []
    medians = [statistics.median(found) for found in times]
    print(f"{'step':<24} {'ms':>9} {'steps/s':>8} {'runs of 15,000 steps an hour':>29} {'(a) / this':>11}")
    for name, found in zip(["(a) published", *(f"(b) PINO, block {block}" for block in args.blocks)], medians):
        print(f"{name:<24} {1e3 * found:>9.2f} {1 / found:>8.2f} {3600 / found / STEPS:>29.3f} "
              f"{medians[0] / found:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
