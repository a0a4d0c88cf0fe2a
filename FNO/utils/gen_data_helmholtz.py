#!/usr/bin/env python3
"""Generate 2D Helmholtz data (fno/generate.py).

    python utils/gen_data_helmholtz.py --o1 1 --o2 10
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fno.generate import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main("helmholtz", sys.argv[1:]))
