#!/usr/bin/env python3
"""Time of one training step of an FNO (forward, backward, Adam), per sample.

(a) a plain network: planes of coefficients, `rfft2` and `irfft2` of all modes, `einsum`, 1x1 convolutions, the whole
batch at once; (b) FNO/ with FFTs; (c) FNO/ with Fourier matrices; (b) and (c) take the batch in blocks, as in training.

All have the same weights, give the same output (checked), and are measured in turns; the table has medians, and
ratios of medians. Traffic is what the operations of (c) read and write, if each reads its inputs and writes its output
once; its share of the bandwidth of a plain copy says how much is left to gain by moving less often.

    python experiments/benchmarks/fno_step.py                              # 1M, 128 x 128; about 4 minutes on two cores
    python experiments/benchmarks/fno_step.py --sizes 64K 1M 16M --batch 128 --device cuda --epoch 16384
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "FNO"))
from fno.configs import SIZES
from fno.model import FNO2d
from fno.session import keep_freed_memory

COEFFICIENTS = 3  # Poisson


class PlainSpectral(nn.Module):
    """FFT, two blocks of modes, inverse FFT."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.upper, self.lower = (nn.Parameter(torch.empty(width, width, modes, modes, 2)) for _ in range(2))

    def forward(self, z: Tensor) -> Tensor:
        """(B, width, N, N) to the same."""
        m, spectrum = self.modes, torch.fft.rfft2(z, norm="ortho")
        out = torch.zeros_like(spectrum)
        for rows, weight in ((slice(0, m), self.upper), (slice(-m, None), self.lower)):
            out[:, :, rows, :m] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, rows, :m],
                                               torch.view_as_complex(weight))
        return torch.fft.irfft2(out, s=z.shape[-2:], norm="ortho")


class Plain(nn.Module):
    """The same network as FNO2d, written plainly."""

    def __init__(self, modes: int, width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(1 + COEFFICIENTS, width)
        self.spectral = nn.ModuleList(PlainSpectral(width, modes) for _ in range(4))
        self.skips = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(4))
        self.hidden, self.output, self.act = nn.Linear(width, 2 * width), nn.Linear(2 * width, 1), nn.GELU()

    def forward(self, f: Tensor, coefficients: Tensor) -> Tensor:
        """u (B, N, N) of f (B, N, N) and coefficients (B, J)."""
        planes = coefficients[:, :, None, None].expand(-1, -1, *f.shape[1:])
        z = self.lift(torch.cat([f[:, None], planes], 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for number, (spectral, skip) in enumerate(zip(self.spectral, self.skips)):
            z = spectral(z) + skip(z)
            z = self.act(z) if number < 3 else z
        return self.output(self.act(self.hidden(z.permute(0, 2, 3, 1)))).squeeze(3)

    @torch.no_grad()
    def copy(self, other: FNO2d) -> None:
        """Take over the weights of FNO2d."""
        for mine, theirs in ((self.lift, other.lift), (self.hidden, other.hidden), (self.output, other.output)):
            mine.load_state_dict(theirs.state_dict())
        for mine, theirs in zip(self.skips, other.skips):
            mine.weight.copy_(theirs.weight[:, :, None, None])
            mine.bias.copy_(theirs.bias)
        for mine, theirs in zip(self.spectral, other.spectral_layers):
            weight = theirs.weight.permute(2, 4, 0, 1, 3)  # in, out, ky, kx, real and imaginary part
            mine.upper.copy_(weight[:, :, :mine.modes])
            mine.lower.copy_(weight[:, :, mine.modes:])


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views cost nothing."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Execute an operation and count."""
        out = function(*args, **(kwargs or {}))
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        stores = {x.untyped_storage().data_ptr() for x in inputs}
        if not function.is_view and not all(x.untyped_storage().data_ptr() in stores and not function._schema.is_mutable
                                            for x in outputs):
            # an expanded tensor is read once: count what it holds
            self.bytes += sum(min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in inputs + outputs)
        return out


def stepper(model: nn.Module, data: tuple[Tensor, Tensor, Tensor], block: int) -> Callable[[], None]:
    """One training step on a batch, `block` samples at a time."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        for f, coefficients, u in zip(*(x.split(block) for x in data)):
            ((model(f, coefficients) - u).square().sum() / len(data[0])).backward()
        optimizer.step()
    return step


def seconds(step: Callable[[], None]) -> float:
    """Of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bandwidth(device: str) -> float:
    """Bytes a second that a copy of a large tensor reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(10))


def main() -> None:
    """Measure in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["64K", "1M"], choices=SIZES)
    parser.add_argument("--n", type=int, default=128, help="grid points a side")
    parser.add_argument("--batch", type=int, default=32, help="samples a step (published: 128)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each, in turns")
    parser.add_argument("--epoch", type=int, default=0, help="also say how long an epoch of so many samples takes")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed_memory()  # for all three alike
    torch.manual_seed(0)
    gpu = args.device.startswith("cuda")
    device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    speed = bandwidth(args.device)
    print(f"torch {torch.__version__}, {device}, copies at {speed / 1e9:.0f} GB/s; milliseconds a sample of a training "
          f"step,\n{args.n} x {args.n}, batch {args.batch}, medians of {args.repeats}")
    print(f"{'size':>5} {'(a) plain':>10} {'(b) FFT':>9} {'(c) matrices':>13} {'a / b':>6} {'a / c':>6}"
          f" {'MB a sample':>12} {'share of copy':>14}" + (f" {'s an epoch':>11}" if args.epoch else ""))
    data = (torch.randn(args.batch, args.n, args.n), torch.randn(args.batch, COEFFICIENTS),
            torch.randn(args.batch, args.n, args.n))
    data = tuple(x.to(args.device) for x in data)
    for size in args.sizes:
        modes, width = SIZES[size]
        networks = [FNO2d(COEFFICIENTS, modes, width, 2 * width, spectral=spectral).to(args.device)
                    for spectral in ("fft", "dft")]
        plain = Plain(modes, width).to(args.device)
        plain.copy(networks[0])
        with torch.no_grad():
            outputs = [model(data[0][:2], data[1][:2]) for model in (plain, *networks)]
        for other in outputs[1:]:
            assert torch.allclose(other, outputs[0], rtol=1e-4, atol=1e-4 * outputs[0].abs().max().item())
        block = max(1, (2**27 if gpu else 2**20) // (args.n**2 * width))  # as Settings.block
        steps = [stepper(plain, data, args.batch), *(stepper(model, data, block) for model in networks)]
        with Traffic() as traffic:
            steps[2]()
        times: list[list[float]] = [[], [], []]
        for repeat in range(args.repeats + 1):
            for step, found in zip(steps, times, strict=True):
                found += [seconds(step) / args.batch] if repeat else [] if seconds(step) else []
        a, b, c = (statistics.median(found) for found in times)
        moved = traffic.bytes / args.batch
        print(f"{size:>5} {1e3 * a:>10.2f} {1e3 * b:>9.2f} {1e3 * c:>13.2f} {a / b:>6.2f} {a / c:>6.2f}"
              f" {moved / 1e6:>12.0f} {moved / c / speed:>14.0%}" + (f" {c * args.epoch:>11.1f}" if args.epoch else ""),
              flush=True)


if __name__ == "__main__":
    main()
