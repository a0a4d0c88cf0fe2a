#!/usr/bin/env python3
"""Write config/*.yaml from the table in fno/configs.py.

    python utils/make_configs.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fno.configs import MODULE, files


def main() -> None:
    """Write every file and name it."""
    for name, text in files().items():
        path = MODULE / "config" / name
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
