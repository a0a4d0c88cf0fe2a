"""What the tests of the scripts share."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = map(str, (Path(__file__).parent, Path(__file__).parents[1]))  # shell.py, analysis


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """Return a working directory that is not the repository, with a blank and a quote in its name."""
    folder = tmp_path / "it's away"
    folder.mkdir()
    return folder
