#!/usr/bin/env python3
"""Train ResNet-18 to a small loss, then record the lengths of the next SGD steps and fit their tail exponent.

    python train_trajectories.py --lr 0.1 --batch_size 64 --seed 0

Plain SGD at a constant learning rate until the loss of an epoch is at most --loss; then |W_{k+1} - W_k| of 200 more
updates, and a power law fitted to 1 / |W_{k+1} - W_k|: steps.csv, steps.json and steps.png in the run folder (the
paper's Fig. 14). Lists are the product: `--lr 0.1 0.2 0.4 --seed 0 1 2` makes nine runs.

Exit codes: 0 all done, 1 some run failed, 2 bad input, 3 another process holds some run, 75 interrupted and saved (run
the same command again), 130 interrupted by Ctrl-C twice, or before training.
"""

import signal
import sys

asked: list[int] = []
for stop in (signal.SIGUSR1, signal.SIGTERM):  # before the slow imports, some of which would swallow an exit
    signal.signal(stop, lambda number, _: asked.append(number))

from cnn.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], trajectory=True, asked=asked))
