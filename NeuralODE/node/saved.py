# Twin of PINN/pinn/saved.py - edit there and run: python experiments/twins.py --fix
"""What a finished run has left in its folder: configuration, result, weights; with one clear line for all else.

    settings, run = reopen(Path("results/convection/lbfgs/beta_5/n_1000/seed_0"), "PINN", rebuild)
    params = read_weights(run.path / "model.pt")["params"]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .files import UsageError, read_text, strict
from .record import Run

Settings = TypeVar("Settings")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object, {} when there is no such file.

    Raises:
        UsageError: for a file that holds anything else, or cannot be read.
    """
    try:
        text = read_text(path)
        found = {} if text is None else json.loads(text)
    except ValueError:
        found = None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged: it must hold a JSON object")
    return found


def read_finished(folder: Path, module: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and metrics.json of a finished run of a module.

    Raises:
        UsageError: when there is no such run.
    """
    path = folder.resolve()
    if not path.is_dir():
        raise UsageError(f"RUN_FOLDER {folder}: there is no such folder")
    result, config = read_object(path / "metrics.json"), read_object(path / "config.json")
    if not result and config:
        raise UsageError(f"RUN_FOLDER {folder} must hold a finished run, but has no metrics.json: it is still at work, "
                         "was interrupted, or failed")
    if not result or not config:
        raise UsageError(f"RUN_FOLDER {folder} must hold a finished run, but has no "
                         f"{'config.json' if result else 'metrics.json'}")
    if result.get("module") != module:
        raise UsageError(f"RUN_FOLDER {folder} must hold a run of {module}, but it is one of {result.get('module')}")
    return config, result


def reopen(folder: Path, module: str,
           rebuild: Callable[[dict[str, Any], dict[str, Any], Path], tuple[Settings, Run]]) -> tuple[Settings, Run]:
    """Settings and run of a finished run, which the module rebuilds from config.json, metrics.json and the folder.

    Raises:
        UsageError: when there is no such run, or it is not what config.json says.
    """
    path, (config, result) = folder.resolve(), read_finished(folder, module)
    try:
        settings, run = rebuild(config, result, path)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(f"{path}/config.json is damaged: {type(error).__name__}: {error}") from error
    rebuilt = strict(run.config)
    other = [name for name in config | rebuilt
             if name not in run.volatile and config.get(name) != rebuilt.get(name)]
    if other:
        raise UsageError(f"{path}/config.json has other arguments than this version writes: {', '.join(other)}")
    if run.path != path:
        raise UsageError(f"RUN_FOLDER {folder} must end with what its config.json says: {run.key.folder()}")
    run.flag = "RUN_FOLDER"
    return settings, run


def read_weights(path: Path) -> dict[str, Any]:
    """A file of weights as the training writes it, on the CPU.

    Raises:
        UsageError: when there is none, or it cannot be read.
    """
    import torch

    if not path.is_file():
        raise UsageError(f"RUN_FOLDER {path.parent} has no {path.name}: trained with --no-save_model, or deleted; "
                         "train it again with --save_model --force")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all sorts for a file that is cut short
        reason = str(error).strip().partition("\n")[0] or "it is cut short"
        raise UsageError(f"{path} is damaged: {reason}") from None
