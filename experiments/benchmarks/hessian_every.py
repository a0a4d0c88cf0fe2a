#!/usr/bin/env python3
"""What --hessian_every log costs a PINN: 2000 iterations of L-BFGS on 1D convection, with and without it.

Both are trained in turns; the table has medians of the seconds of a training, of the processor on a CPU, so that other
work on the machine counts little, and the median of the ratios of neighbours. Of the 20 log-spaced times those that
fall into one call of L-BFGS (20 iterations) are one measurement.

    python experiments/benchmarks/hessian_every.py                             # about 7 minutes on two cores
    python experiments/benchmarks/hessian_every.py --sizes 10000 --betas 5 20 35 50 --device cuda
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "PINN"))
from pinn.arguments import parse
from pinn.train import train


def seconds(size: int, arguments: argparse.Namespace, times: str) -> tuple[float, int, int]:
    """Seconds of a training with these --hessian_every, its iterations (of the longest run), and measurements."""
    with tempfile.TemporaryDirectory() as folder:
        settings, physical, seeds = parse([
            "--pde", "convection", "--pde_params", json.dumps({"beta": arguments.betas}), "--num_res", str(size),
            "--iterations", str(arguments.iterations), "--initial_seed", "0", "--device", arguments.device,
            "--log_every", str(arguments.iterations), "--hessian_every", times, "--save_path", folder])
        clock = time.process_time if settings[0].device.type == "cpu" else time.perf_counter
        start = clock()
        train(settings[0], settings[0].runs(physical, seeds))
        spent = clock() - start
        results = [json.loads(path.read_text())["iterations"] for path in Path(folder).rglob("metrics.json")]
        history = next(Path(folder).rglob("history.csv")).read_text().splitlines()
    column = history[0].split(",").index("lambda_max") if "lambda_max" in history[0] else None
    return spent, max(results), 0 if column is None else sum(bool(row.split(",")[column]) for row in history[1:])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000], help="collocation points")
    parser.add_argument("--betas", type=float, nargs="+", default=[5.0], help="runs side by side")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"{'N_f':>6} {'iterations':>10} {'times':>5} {'without':>9} {'with':>9} {'ratio':>6}")
    for size in arguments.sizes:
        pairs = [(seconds(size, arguments, "0"), seconds(size, arguments, "log")) for _ in range(arguments.repeats)]
        without, watched = (statistics.median(pair[k][0] for pair in pairs) for k in (0, 1))
        ratio = statistics.median(b[0] / a[0] for a, b in pairs)
        _, iterations, times = pairs[0][1]
        print(f"{size:6} {iterations:10} {times:5} {without:7.1f} s {watched:7.1f} s {ratio:6.3f}", flush=True)


if __name__ == "__main__":
    main()
