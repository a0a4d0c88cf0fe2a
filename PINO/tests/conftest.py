"""Tests import the package from the module's folder, wherever pytest is started."""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(path) for path in Path(__file__).resolve().parents[:2]]
torch.set_num_threads(1)
