#!/usr/bin/env python3
"""Train ResNet-18 on CIFAR-10 or CIFAR-100, into run folders.

    python run_exp.py --model ResNet18 --dataset CIFAR-10 --epochs 200 --batch_size 128 --save_model

Lists are the product, trained one after another: `--lr 0.05 0.1 --seed 0 1 2` makes six runs.

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
    sys.exit(main(sys.argv[1:], trajectory=False, asked=asked))
