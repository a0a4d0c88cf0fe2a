#!/usr/bin/env python3
"""Train a Fourier neural operator on 2D Poisson, advection-diffusion or Helmholtz data, into run folders.

    python train.py --yaml_config config/operators_poisson_64K.yaml --config poisson_scale_k1.0_2.5_val1024_64K \
        --root_dir results --lr 1e-3 --batch_size 128 --max_epochs 500

Flags override the YAML file. Lists are the product: `--subsample 8 4 2 --seed 0 1 2` trains nine runs, one after
another. On several GPUs: torchrun --nproc_per_node 4 train.py ...

Exit codes: 0 all done, 1 some run failed, 2 bad input, 3 another process holds some run, 75 interrupted and saved (run
the same command again), 130 interrupted twice by Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Sequence

STOPS = (signal.SIGUSR1, signal.SIGTERM)
asked: list[int] = []
for stop in STOPS:  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

from fno.arguments import parse, settings  # noqa: E402
from fno.cli import find_device  # noqa: E402
from fno.files import UsageError  # noqa: E402
from fno.generate import Stopped  # noqa: E402
from fno.parallel import World  # noqa: E402
from fno.record import Run  # noqa: E402
from fno.settings import Settings  # noqa: E402
from fno.train import train  # noqa: E402


def look(cell: Settings, runs: Sequence[Run]) -> None:
    """Refuse run folders with another configuration; with --force empty them all before the first run is trained.

    An interruption in the first cell then leaves no old results in the others, which would pass for new ones.
    """
    for run in runs:
        if cell.force:
            run.prepare(force=True)
            run.release()
        else:
            run.check_config()


def main() -> int:
    """Parse, make data where that is asked for, then train one cell of the map after another."""
    for stop in STOPS:  # from here to the training loop, which has its own handlers, there is nothing to save
        signal.signal(stop, lambda *_: sys.exit(75))
    if asked:
        return 75
    world = None
    try:
        args, config = parse(sys.argv[1:])
        world = World(find_device(args.device))
        cells = [(cell, cell.runs(args.seeds)) for cell in settings(args, config, world)]
        for cell, runs in cells:
            world.share(lambda cell=cell, runs=runs: look(cell, runs))
        codes = []
        for cell, runs in cells:
            codes.append(train(cell, runs, world))
            if codes[-1] == 75:
                break
        return max(codes, key=(0, 3, 1, 75).index)
    except (UsageError, Stopped) as error:
        code = getattr(error, "code", 2)
        if os.environ.get("RANK", "0") == "0":  # of torchrun: one process speaks
            print("" if code == 75 else "error: ", " ".join(str(error).split()), sep="", file=sys.stderr)
        return code
    except KeyboardInterrupt:  # the second Ctrl-C: what the last checkpoint has is kept
        return 130
    finally:
        if world is not None:
            world.close()


if __name__ == "__main__":
    sys.exit(main())
