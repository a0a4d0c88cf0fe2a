#!/usr/bin/env python3
"""Generate 2D Poisson data (fno/generate.py).

    python utils/gen_data_poisson.py --e1 1.0 --e2 2.5
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fno.generate import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("poisson", sys.argv[1:]))
