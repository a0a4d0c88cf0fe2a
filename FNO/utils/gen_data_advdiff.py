#!/usr/bin/env python3
"""Generate 2D advection-diffusion data (fno/generate.py).

    python utils/gen_data_advdiff.py --adr1 0.2 --adr2 0.4
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fno.generate import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("advdiff", sys.argv[1:]))
