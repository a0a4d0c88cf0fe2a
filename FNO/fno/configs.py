"""Named configurations: all YAML files of config/ from one table, and how one of them is read.

    python utils/make_configs.py            write config/*.yaml anew, after editing RANGES, SIZES or DEFAULTS here

A file has a block `default`, a block of the system, and one entry a range and size; keys are inherited by YAML merges
(`<<: *poisson`). To try a variant, add an entry of your own to any YAML file and give --yaml_config and --config.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from .files import UsageError
from .systems import SYSTEMS, System, file_name, scales_name

MODULE = Path(__file__).resolve().parents[1]

POISSON = ((1.0, 2.5), (2.5, 5.0), (5.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 50.0), (50.0, 100.0), (100.0, 200.0))
ADVDIFF = ((0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.0), (1.0, 1.3), (1.3, 1.7), (1.7, 2.0), (2.0, 2.5))
WIDE = ((1.0, 5.0), (0.2, 1.0), (1, 10))  # K, Psi, omega: in one range, as Subramanian et al. 2023 ("TL")
#: size: (modes, width).
SIZES = {"64K": (8, 8), "1M": (16, 16), "16M": (16, 64), "TL": (32, 64)}
SIZES_OF_PAPER = ("64K", "1M", "16M")
#: Epochs by number of training samples (the paper's table); fewer samples: as 128.
EPOCHS = {128: 1000, 256: 750, 512: 500, 1024: 300, 2048: 200, 4096: 150, 8192: 100, 16384: 75, 32768: 50}
BUDGETS = {"smoke": 0.002, "laptop": 0.2, "paper": 1.0}  # of the epochs in the table

LOSS_STYLES, OPTIMIZERS, SCHEDULERS = ("sum", "mean", "relative"), ("adam", "sgd"), ("cosine", "none")


@dataclass(frozen=True)
class Config:
    """One resolved configuration; keys as in the YAML files, published names where there are such.

    `range` is that of K's second eigenvalue, of Psi, or of omega; `batch_size`: samples an update; `subsample` and
    `val_subsample`: every how many rows of the train and the validation file are used; `max_epochs` and `val_every`:
    numbers, or "auto" (EPOCHS by number of samples; validate once as many samples were trained on as are validated).
    """

    system: str
    range: tuple[float, float]
    train_path: str
    val_path: str
    test_path: str
    scales_path: str
    size: str
    mode_cut: int
    embed_cut: int
    fc_cut: int = 2
    n_layers: int = 4
    loss_style: str = "sum"
    optimizer: str = "adam"
    scheduler: str = "cosine"
    lr: float = 1e-3
    batch_size: int = 128
    valid_batch_size: int = 128
    max_epochs: int | str = "auto"
    val_every: int | str = "auto"
    subsample: int = 32
    val_subsample: int = 4
    shuffle: bool = True
    seed: int = 2024


#: What every YAML file says at its head; the keys that differ between configurations are not among them.
DEFAULTS = {field.name: field.default for field in fields(Config) if isinstance(field.default, (bool, int, float, str))}


def epochs(n: int, budget: str = "paper") -> int:
    """Epochs for n training samples: those of the largest number in the table that is not above n."""
    table = EPOCHS[max((size for size in EPOCHS if size <= n), default=min(EPOCHS))]
    return max(1, round(table * BUDGETS[budget]))


# ---- writing -----------------------------------------------------------------------------------------------------


def name_of(system: str, lower: float, upper: float, size: str) -> str:
    """The published name of a configuration, or one after its pattern."""
    lower, upper = (f"{v:g}" if (lower, upper) in WIDE else repr(v) for v in (lower, upper))
    if system == "advdiff":
        lower, upper = lower.replace(".", "p"), upper.replace(".", "p")
    if size == "TL":
        return {"poisson": "poisson-scale-k", "advdiff": "ad-scale-adr", "helmholtz": "helm-scale-o"}[system] + (
            f"{lower}_{upper}")
    prefix = {"poisson": "poisson_scale_k", "advdiff": "ad_scale_", "helmholtz": "helm_scale_o"}[system]
    return f"{prefix}{lower}_{upper}_val1024_{size}"


def files() -> dict[str, str]:
    """Names and texts of all YAML files."""
    found = {}
    for size in SIZES_OF_PAPER:
        more = [(*limits, "64K") for limits in POISSON] + [(*WIDE[0], "1M"), (*WIDE[0], "TL")] if size == "1M" else []
        found[f"operators_poisson_{size}.yaml"] = _text("poisson", [(*limits, size) for limits in POISSON] + more)
        found[f"operators_ad_{size}.yaml"] = _text("advdiff", [(*limits, size) for limits in ADVDIFF])
    found["operators_ad.yaml"] = _text("advdiff", [(*WIDE[1], "TL")])
    found["operators_helmholtz.yaml"] = _text("helmholtz", [(*WIDE[2], size) for size in ("TL", *SIZES_OF_PAPER)])
    return found


def _text(name: str, entries: Iterable[tuple[float, float, str]]) -> str:
    system, title = SYSTEMS[name], "written by utils/make_configs.py from fno/configs.py"
    lines = [f"# {system.title}: {title}", "default: &default"]
    lines += [f"  {key}: {_scalar(value)}" for key, value in DEFAULTS.items()]
    lines += ["", f"{name}: &{name}", "  <<: *default", f"  system: {name}"]
    for lower, upper, size in entries:
        modes, width = SIZES[size]
        paths = {f"{split}_path": file_name(system, split, lower, upper) for split in ("train", "val", "test")}
        paths["scales_path"] = scales_name(system, lower, upper)
        values = {"range": f"[{lower!r}, {upper!r}]", "size": size, "mode_cut": modes, "embed_cut": width}
        values |= {key: f"{system.folder}/{path}" for key, path in paths.items()}
        lines += ["", f"{name_of(name, lower, upper, size)}:", f"  <<: *{name}"]
        lines += [f"  {key}: {value}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- reading -----------------------------------------------------------------------------------------------------


def find_yaml(path: str) -> Path:
    """A file as given, else below the module's folder.

    Raises:
        UsageError: there is none; the text names those of config/.
    """
    for candidate in (Path(path), MODULE / path):
        if candidate.is_file():
            return candidate
    there = sorted(p.name for p in (MODULE / "config").glob("*.yaml"))
    raise UsageError(f"--yaml_config {path}: no such file; config/ has {', '.join(there)}")


def read(path: Path, name: str) -> dict[str, Any]:
    """The keys of one entry of a YAML file, with those that it inherits.

    Raises:
        UsageError: for a file that is not such YAML, and for an unknown name; the text offers the nearest names.
    """
    try:
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        raise UsageError(f"--yaml_config {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UsageError(f"--yaml_config {path} must hold named configurations")
    names = {str(entry): keys for entry, keys in found.items() if "train_path" in keys}
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5) or names
        raise UsageError(f"--config {name!r}: {path.name} has no such configuration; nearest: {', '.join(near)}")
    return dict(names[name])


def resolve(keys: dict[str, Any], source: str) -> Config:
    """A checked configuration from the keys of a YAML entry and the flags that override them.

    Raises:
        UsageError: a key is unknown, missing, or out of range; `source` says where it stands.
    """
    known = {field.name: field for field in fields(Config)}
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1) or [", ".join(known)]
            raise UsageError(f"{source}: unknown key {key!r}; nearest: {near[0]}")
    missing = [key for key in known if key not in keys and key not in DEFAULTS]
    if missing:
        raise UsageError(f"{source}: {', '.join(missing)} missing")
    system = SYSTEMS.get(keys["system"]) if isinstance(keys["system"], str) else None
    if system is None:
        raise UsageError(f"{source}: system must be one of {', '.join(SYSTEMS)}, got {keys['system']!r}")
    values = {key: check(key, value, f"{source}: {key}") for key, value in keys.items() if key != "range"}
    return Config(**values, range=_range(keys["range"], system, source))


def _range(value: Any, system: System, source: str) -> tuple[float, float]:
    if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(v) for v in value)
            and value[0] <= value[1] and all(system.number(v) == v for v in value)):
        words = " of whole numbers" if system.number is int else ""
        raise UsageError(f"{source}: range must be [lower, upper]{words}, got {value!r}")
    lower, upper = (system.number(v) for v in value)
    return lower, upper


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "/" not in value


#: What is allowed: a test, and its name in words.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("train_path", "val_path", "test_path", "scales_path"),
                    (lambda v: isinstance(v, str) and bool(v), "a path")),
    **dict.fromkeys(("mode_cut", "embed_cut", "fc_cut", "n_layers", "batch_size", "valid_batch_size", "subsample",
                     "val_subsample"), (_is_count, "a whole number from 1")),
    **dict.fromkeys(("max_epochs", "val_every"),
                    (lambda v: v == "auto" or _is_count(v), "auto or a whole number from 1")),
    "system": (lambda v: v in SYSTEMS, "one of " + ", ".join(SYSTEMS)),
    "size": (_is_label, "a name for folders, such as 64K"),
    "loss_style": (LOSS_STYLES.__contains__, "one of " + ", ".join(LOSS_STYLES)),
    "optimizer": (OPTIMIZERS.__contains__, "one of " + ", ".join(OPTIMIZERS)),
    "scheduler": (SCHEDULERS.__contains__, "one of " + ", ".join(SCHEDULERS)),
    "lr": (lambda v: _is_number(v) and v > 0, "a positive number"),
    "shuffle": (lambda v: isinstance(v, bool), "true or false"),
    "seed": (lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63, "a whole number from 0"),
}


def check(key: str, value: Any, label: str) -> Any:
    """Return the value of a key. Raises UsageError for one that is not allowed; `label` is what the text calls it."""
    allowed, words = _RULES[key]
    if not allowed(value):
        raise UsageError(f"{label} must be {words}, got {value!r}")
    return value
