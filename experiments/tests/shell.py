"""Running the shell scripts from tests, and looking at what they leave."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from analysis.tasks import Task, parse_line

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "experiments"
# What the caller may have set and would change what is tested.
SETTINGS = ("PDE", "OPT", "OPTS", "SCALE", "BUDGET", "LAUNCH", "OUTDIR", "SEEDS", "SEED", "VALUES", "N_RES", "EXTRA")
SETTINGS += ("BETA", "BETAS", "ITERATIONS", "GPU", "JOBS", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV", "CONDA_PREFIX")
SETTINGS += ("MODEL", "INV_B", "HORIZON", "HORIZONS", "LOSS_SCALE", "THRESHOLDS")
SETTINGS += ("SYSTEM", "SIZE", "RANGES", "N", "DATA", "DATA_OPTIONS", "CONFIG", "YAML_CONFIG", "SUBSAMPLE")
SETTINGS += ("MAX_EPOCHS", "LR", "BATCH_SIZE", "MAX_PARALLEL", "GRES", "CPUS", "MEM", "TIME")
SETTINGS += ("R", "N_SAMPLES", "PRESET", "ADAM_STEPS", "CKPT_DIR", "ALM_MU", "ALM_RHO", "ALM_OUTER", "ALM_INNER")
SETTINGS += ("PINO_DATA_DIR", "PINO_PIECECONST_DIR", "PINO_CKPT_DIR", "NNCG_FB_CHUNK", "NNCG_RANK", "NNCG_CHUNK_SIZE")
SETTINGS += ("NNCG_SEQ_HVP", "SEGMENT_WALL_SECONDS", "DATASET", "EPOCHS", "LRS")

# setup.sh takes this Python as checked: importing torch for every script would take most of the time.
NEEDED = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text().partition("# test")[0], re.M)
CHECKED = {"PYTHON": sys.executable, "CHECKED_PYTHON": " ".join([sys.executable, *NEEDED])}


def environ(**settings: str) -> dict[str, str]:
    """Return the environment of a script: this Python, no SLURM unless given, and nothing of the caller's settings."""
    kept = {k: v for k, v in os.environ.items() if k not in SETTINGS and not k.startswith(("SLURM_", "SBATCH_"))}
    return kept | CHECKED | {"LAUNCH": "local"} | settings


def bash(script: Path | str, cwd: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or the text of one, without a terminal; stdout and stderr come together in `stdout`."""
    command = ["bash", str(script)] if isinstance(script, Path) else ["bash", "-c", script]
    return subprocess.run([*command, *arguments], cwd=cwd, env=environ(**settings), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)


def refusal(script: Path, cwd: Path, **settings: str) -> str:
    """Return the one line with which a script refuses its settings: exit code 2, nothing written."""
    result = bash(script, cwd, **{"OUTDIR": "out", **settings})
    lines = [line for line in result.stdout.splitlines() if not line.startswith("#")]
    assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: "), result.stdout
    assert list(cwd.iterdir()) == []
    return lines[0]


def printed(script: Path, cwd: Path, **settings: str) -> list[Task]:
    """Return the tasks that a script shows with LAUNCH=print."""
    shown = bash(script, cwd, LAUNCH="print", **settings)
    assert shown.returncode == 0, shown.stdout
    return [task for task in map(parse_line, shown.stdout.splitlines()) if task]


def flag(task: Task, name: str) -> str:
    """Return the value of a flag of a task's command, given as `--name value` or `--name=value`."""
    words = shlex.split(task.command)
    joined = [word.removeprefix(f"{name}=") for word in words if word.startswith(f"{name}=")]
    return joined[0] if joined else words[words.index(name) + 1]


def done(results: Path) -> list[str]:
    """Return the finished runs below a folder."""
    return sorted(str(path.parent.relative_to(results)) for path in results.rglob("metrics.json"))


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
