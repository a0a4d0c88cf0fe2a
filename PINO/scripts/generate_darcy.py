#!/usr/bin/env python3
"""Generate Darcy flow data (pino/generate.py).

    python scripts/generate_darcy.py --r 4 --n_samples 1000 --seed 0
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from pino.generate import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
