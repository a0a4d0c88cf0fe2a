"""What the tests of the scripts share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # shell.py


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """Return a working directory that is not the repository, with a blank and a quote in its name."""
    folder = tmp_path / "it's away"
    folder.mkdir()
    return folder
