#!/usr/bin/env python3
"""Train physics-informed networks, one or many side by side, into run folders.

    python run_experiment.py --pde convection --pde_params '{"beta": 10}' --opt lbfgs --num_res 5000 --save_path results

Lists are the product: physical values times seeds train side by side, several --num_res one after another.

    python run_experiment.py --pde convection --pde_params '{"beta": [5, 10, 20]}' --initial_seed 0 1 2 ...

Exit codes: 0 all done, 1 some run failed, 2 bad input, 3 another process holds some run, 75 interrupted and saved (run
the same command again), 130 interrupted twice by Ctrl-C.
"""

import signal
import sys

STOPS = (signal.SIGUSR1, signal.SIGTERM)
asked: list[int] = []
for stop in STOPS:  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

from pinn.arguments import parse  # noqa: E402
from pinn.files import UsageError  # noqa: E402
from pinn.train import check, train  # noqa: E402


def main() -> int:
    """Parse, then train one row of the map after another."""
    for stop in STOPS:  # from here to the training loop, which has its own handlers, there is nothing to save
        signal.signal(stop, lambda *_: sys.exit(75))
    if asked:
        return 75
    try:
        rows, physical, seeds = parse(sys.argv[1:])
        for settings in rows:
            check(settings, settings.runs(physical, seeds))
        if rows[0].force:  # an interruption in the first row leaves no old result in the others
            for settings in rows:
                for run in settings.runs(physical, seeds):
                    run.prepare(force=True)
                    run.release()
        codes = []
        for settings in rows:
            codes.append(train(settings, settings.runs(physical, seeds)))
            if codes[-1] == 75:
                break
        return max(codes, key=(0, 3, 1, 75).index)
    except UsageError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the second Ctrl-C: what the last checkpoint has is kept
        return 130


if __name__ == "__main__":
    sys.exit(main())
