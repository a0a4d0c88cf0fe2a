"""Configurations: the YAML files, their names and values, what is refused, and what flags override."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import small  # noqa: E402
from fno import configs  # noqa: E402
from fno.arguments import OVERRIDES, parse, settings  # noqa: E402
from fno.configs import Config, epochs, find_yaml, read, resolve  # noqa: E402
from fno.files import UsageError  # noqa: E402
from fno.model import FNO2d  # noqa: E402
from fno.parallel import World  # noqa: E402
from fno.settings import Settings  # noqa: E402
from fno.systems import SYSTEMS  # noqa: E402
from ruamel.yaml import YAML  # noqa: E402

data = pytest.fixture(scope="module")(small.data)

K = "1.0_2.5 2.5_5.0 5.0_10.0 10.0_20.0 20.0_30.0 30.0_50.0 50.0_100.0 100.0_200.0".split()
AD = "0p2_0p4 0p4_0p6 0p6_0p8 0p8_1p0 1p0_1p3 1p3_1p7 1p7_2p0 2p0_2p5".split()
#: Modes, width and number of weights of the Poisson network; the published table.
NETWORKS = {"64K": (8, 8, 66_025), "1M": (16, 16, 1_050_321), "16M": (16, 64, 16_802_625)}


def of_name(name: str) -> tuple[str, tuple[float, float], str]:
    """System, range and size that a published name says."""
    words = name.split("_")
    head, tail = ("_".join(words[:-2]), words[-1]) if "val1024" in words else (name, "TL")
    system = {"poisson": "poisson", "ad": "advdiff", "helm": "helmholtz"}[name.split("-")[0].split("_")[0]]
    for prefix in ("poisson_scale_k", "ad_scale_", "helm_scale_o", "poisson-scale-k", "ad-scale-adr", "helm-scale-o"):
        head = head.removeprefix(prefix)
    lower, upper = (float(part.replace("p", ".")) for part in head.split("_"))
    return system, (lower, upper), tail


def test_yaml_files_are_the_ones_that_the_table_gives() -> None:
    """make_configs.py would change nothing, and every published name is there."""
    there = {path.name: path.read_text(encoding="utf-8") for path in (configs.MODULE / "config").iterdir()}
    assert there == configs.files()
    names = {name: set(YAML(typ="safe", pure=True).load(text)) for name, text in there.items()}
    for size in NETWORKS:
        assert {f"poisson_scale_k{k}_val1024_{size}" for k in K} <= names[f"operators_poisson_{size}.yaml"]
        assert {f"ad_scale_{ad}_val1024_{size}" for ad in AD} <= names[f"operators_ad_{size}.yaml"]
        assert f"helm_scale_o1_10_val1024_{size}" in names["operators_helmholtz.yaml"]
    assert "ad-scale-adr0p2_1" in names["operators_ad.yaml"] and "helm-scale-o1_10" in names["operators_helmholtz.yaml"]
    assert {"poisson-scale-k1_5", "poisson_scale_k1_5_val1024_1M"} <= names["operators_poisson_1M.yaml"]


def test_every_entry_is_what_its_name_says() -> None:
    """Range, files, modes and width; and all else as published."""
    count = 0
    for path in sorted((configs.MODULE / "config").glob("*.yaml")):
        for name, keys in YAML(typ="safe", pure=True).load(path.read_text()).items():
            if "train_path" not in keys:
                continue
            found = resolve(read(path, name), name)
            system, limits, size = of_name(name)
            modes, width = NETWORKS[size][:2] if size in NETWORKS else (32, 64)
            assert (found.system, found.range, found.size) == (system, limits, size), name
            assert (found.mode_cut, found.embed_cut, found.fc_cut, found.n_layers) == (modes, width, 2, 4), name
            lower, upper = (int(v) if system == "helmholtz" else v for v in limits)
            stem = f"{SYSTEMS[system].tag}{lower}_{upper}"
            places = {"train_path": f"_train_{stem}_32k.h5", "val_path": f"_val_{stem}_4k.h5",
                      "test_path": f"_test_{stem}_4k.h5", "scales_path": f"_train_{stem}_32k_scales.npy"}
            assert {key: getattr(found, key) for key in places} == {
                key: f"data/{system}/{file}" for key, file in places.items()}
            published = {"loss_style": "sum", "optimizer": "adam", "scheduler": "cosine", "lr": 1e-3, "batch_size": 128,
                         "valid_batch_size": 128, "val_subsample": 4, "max_epochs": "auto", "shuffle": True}
            assert {key: getattr(found, key) for key in published} == published
            count += 1
    assert count == 3 * 16 + 8 + 2 + 1 + 4  # with 64K in operators_poisson_1M.yaml, as published


@pytest.mark.parametrize("size", NETWORKS)
def test_networks_have_the_published_number_of_weights(size: str) -> None:
    config = resolve(read(find_yaml(f"config/operators_poisson_{size}.yaml"), f"poisson_scale_k{K[0]}_val1024_{size}"),
                     size)
    model = FNO2d(3, config.mode_cut, config.embed_cut, config.embed_cut * config.fc_cut, config.n_layers)
    assert sum(p.numel() for p in model.parameters()) == NETWORKS[size][2]


def test_epochs_by_number_of_samples() -> None:
    """The paper's table, and the largest n of it that is not above ours."""
    table = {16384: 75, 8192: 100, 4096: 150, 2048: 200, 1024: 300, 512: 500, 256: 750, 128: 1000, 32768: 50}
    between = {1: 1000, 64: 1000, 127: 1000, 129: 1000, 255: 1000, 300: 750, 1023: 500, 32767: 75, 10**6: 50}
    for n, number in (table | between).items():
        assert epochs(n) == number
        assert epochs(n, "laptop") == number // 5 and 1 <= epochs(n, "smoke") <= 2


# ---- reading a file ------------------------------------------------------------------------------------------------

YAML_TEXT = """
default: &default {lr: 1e-2, batch_size: 4, system: poisson, size: tiny, mode_cut: 3, embed_cut: 4}
paths: &paths {val_path: v.h5, test_path: t.h5, scales_path: s.npy}
one:
  <<: [*default, *paths]
  train_path: a.h5
  range: [1, 2.5]
two: &two
  <<: *default
  <<: *paths
  train_path: b.h5
  batch_size: 5
  range: [1, 2.5]
three:
  <<: *two
  lr: 0.5
7:
  <<: *two
"""


def test_merge_keys(tmp_path: Path) -> None:
    """Inherited keys, overridden ones, a list of merges, a merge of a merge."""
    path = tmp_path / "x.yaml"
    path.write_text(YAML_TEXT.replace("  <<: *default\n  <<: *paths\n", "  <<: [*default, *paths]\n"))
    found = {name: resolve(read(path, name), name) for name in ("one", "two", "three", "7")}
    assert [(c.train_path, c.lr, c.batch_size) for c in found.values()] == [
        ("a.h5", 0.01, 4), ("b.h5", 0.01, 5), ("b.h5", 0.5, 5), ("b.h5", 0.01, 5)]
    assert found["one"].range == (1.0, 2.5) and found["one"].lr == 1e-2  # YAML 1.2: 1e-2 is a number
    path.write_text(YAML_TEXT)
    with pytest.raises(UsageError, match=f"--yaml_config {path} cannot be read: [^\n]*duplicate"):
        read(path, "one")


@pytest.mark.parametrize(("text", "words"), [
    ("a: [1, 2", "cannot be read"), ("a: 1", "must hold named configurations"), ("- a", "must hold named"),
    ("", "must hold named"), ("a: *b", "cannot be read"), ("a: {b: 2020-99-99}", "cannot be read"),
    ("\x00", "cannot be read"), (b"\xff\xfe\xfa", "cannot be read"), ("a: {x: 1}", "'one': x.yaml has no such")])
def test_files_that_are_no_configurations(text: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words) as caught:
        read(tmp_path / "x.yaml", "one")
    assert "\n" not in str(caught.value)


def test_names_that_are_not_there() -> None:
    """The nearest are offered."""
    with pytest.raises(UsageError, match="no such file; config/ has operators_ad.yaml, .*operators_poisson_64K.yaml"):
        find_yaml("config/operators_poisson_65K.yaml")
    path = find_yaml("config/operators_poisson_64K.yaml")
    for name, near in {"poisson_scale_k1_2.5_val1024_64K": "poisson_scale_k1.0_2.5_val1024_64K",
                       "poisson_scale_k20_30_val1024": "poisson_scale_k20.0_30.0_val1024_64K",
                       "default": "poisson_scale_k1.0_2.5_val1024_64K", "": "poisson_scale_k1.0_2.5"}.items():
        with pytest.raises(UsageError, match=f"--config {name!r}: .* nearest: .*{near}"):
            read(path, name)


GOOD = {"system": "poisson", "range": [1.0, 2.5], "size": "tiny", "mode_cut": 3, "embed_cut": 4, "train_path": "a",
        "val_path": "b", "test_path": "c", "scales_path": "d"}
COUNT, NAME = "a whole number from 1", "a path"


@pytest.mark.parametrize(("key", "values", "words"), [
    *((key, [0, -1, 1.5, True, "8", None, [8]], COUNT) for key in (
        "mode_cut", "embed_cut", "fc_cut", "n_layers", "batch_size", "valid_batch_size", "subsample", "val_subsample")),
    *((key, [0, -1, 2.0, True, "often", None, []], "auto or " + COUNT) for key in ("max_epochs", "val_every")),
    *((f"{split}_path", ["", 3, None, ["a"]], NAME) for split in (*small.SPLITS, "scales")),
    ("lr", [0, -1e-3, float("nan"), float("inf"), "fast", True, None], "a positive number"),
    ("seed", [-1, 2**63, 1.0, "a", False], "a whole number from 0"), ("shuffle", [1, "yes", None], "true or false"),
    ("loss_style", ["l2", ["sum"], None], "one of sum, mean, relative"),
    ("optimizer", ["lbfgs", {}], "one of adam, sgd"), ("scheduler", ["step", 1], "one of cosine, none"),
    ("size", ["", "a/b", 64, None], "a name for folders"),
    ("system", ["heat", None, ["poisson"], 1], "one of poisson, advdiff, helmholtz"),
    ("range", [[1.0], [1, 2, 3], "1-2", [2, 1], [1, float("nan")], [True, 2], None, {"a": 1}], r"\[lower, upper\]")])
def test_values_that_are_not_allowed(key: str, values: list[Any], words: str) -> None:
    for value in values:
        with pytest.raises(UsageError, match=f"^here: {key} must be {words}.*, got "):
            resolve(GOOD | {key: value}, "here")


def test_keys() -> None:
    """Unknown ones are answered with the nearest, missing ones are named, the others have the published values."""
    with pytest.raises(UsageError, match="here: unknown key 'batchsize'; nearest: batch_size"):
        resolve(GOOD | {"batchsize": 3}, "here")
    with pytest.raises(UsageError, match="here: unknown key 3; nearest: system, range"):
        resolve(GOOD | {3: 3}, "here")
    with pytest.raises(UsageError, match="here: mode_cut, scales_path missing|here: scales_path, mode_cut missing"):
        resolve({key: value for key, value in GOOD.items() if key not in ("mode_cut", "scales_path")}, "here")
    with pytest.raises(UsageError, match=r"range must be \[lower, upper\] of whole numbers, got \[1.5, 3\]"):
        resolve(GOOD | {"system": "helmholtz", "range": [1.5, 3]}, "here")
    limits = resolve(GOOD | {"system": "helmholtz", "range": [1.0, 3]}, "here").range
    assert limits == (1, 3) and all(isinstance(v, int) for v in limits)
    assert {f.name: getattr(resolve(GOOD, ""), f.name) for f in fields(Config)} == configs.DEFAULTS | GOOD | {
        "range": (1.0, 2.5)}


# ---- flags over the file -------------------------------------------------------------------------------------------

FLAGS = {"lr": ("0.5", 0.5), "batch_size": ("3", 3), "max_epochs": ("9", 9), "val_every": ("5", 5),
         "loss_style": ("relative", "relative"), "optimizer": ("sgd", "sgd"), "scheduler": ("none", "none"),
         "shuffle": (None, True)}
IN_FILE = {"lr": 0.25, "batch_size": 4, "max_epochs": 6, "val_every": 2, "loss_style": "mean", "optimizer": "adam",
           "scheduler": "cosine", "shuffle": False}


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_overrides_its_key_alone(name: str, tmp_path: Path) -> None:
    assert set(FLAGS) == set(OVERRIDES)
    yaml = small.write_yaml(tmp_path / "x.yaml", **IN_FILE)
    words = ["--yaml_config", str(yaml), "--config", "tiny"]
    _, before = parse(words)
    assert {key: getattr(before, key) for key in IN_FILE} == IN_FILE
    text, value = FLAGS[name]
    _, after = parse([*words, f"--{name}", *([text] if text else [])])
    assert after == replace(before, **{name: value}) != before


def test_flags_that_switch_off_and_words(tmp_path: Path) -> None:
    """--no-shuffle over true, auto over a number."""
    yaml = small.write_yaml(tmp_path / "x.yaml", shuffle=True, max_epochs=3, val_every=3)
    _, config = parse(["--yaml_config", str(yaml), "--config", "tiny", "--no-shuffle", "--max_epochs", "auto",
                       "--val_every", "auto"])
    assert (config.shuffle, config.max_epochs, config.val_every) == (False, "auto", "auto")


def cells(yaml: Path, data: Path, flags: str = "") -> tuple[list[int], list[Settings]]:
    """Seeds, and what is trained with."""
    words = f"--yaml_config {yaml} --config tiny --data_dir {data} --device cpu {flags}"
    args, config = parse(shlex.split(words))
    return args.seeds, settings(args, config, World(torch.device("cpu")))


def test_epochs_from_the_file_the_flag_and_the_budget(data: Path, tmp_path: Path) -> None:
    """A flag is above the budget, and the budget above the file."""
    auto = small.write_yaml(tmp_path / "auto.yaml", max_epochs="auto", subsample=1)
    ours = small.write_yaml(tmp_path / "ours.yaml", max_epochs=11, subsample=1)
    for yaml, flags, expected in [
            (auto, "", 1000), (ours, "", 11), (ours, "--max_epochs 4", 4), (ours, "--max_epochs auto", 1000),
            (ours, "--budget smoke", 2), (ours, "--budget laptop", 200), (ours, "--budget paper", 1000),
            (auto, "--budget smoke --max_epochs 5", 5), (ours, "--budget smoke --max_epochs auto", 2)]:
        _, (cell,) = cells(yaml, data, flags)
        assert cell.epochs == expected, flags


def test_subsamples_and_seeds(data: Path, tmp_path: Path) -> None:
    """From the file, or those of the flags, in their order; n, batch, validations and folders follow."""
    yaml = small.write_yaml(tmp_path / "x.yaml", val_subsample=2)
    seeds, (cell,) = cells(yaml, data)
    assert (seeds, cell.n, cell.batch) == ([7], 16, 8)
    seeds, found = cells(yaml, data, "--subsample 8 1 5 --seed 3 0 --val_every auto --root_dir R --run_num a.b-1")
    assert seeds == [3, 0] and [(c.n, c.batch, c.val_every) for c in found] == [(4, 4, 4), (32, 8, 1), (6, 6, 3)]
    assert [run.path.as_posix() for run in found[2].runs(seeds)] == [
        f"R/a.b-1/fno_tiny/poisson/adam/k_1-2.5/n_6/seed_{k}" for k in (3, 0)]
    noted = found[0].run(3).config
    assert (noted["subsample"], noted["n"], noted["batch_size"], noted["seed"]) == (8, 4, 4, 3)


def test_other_systems_have_their_folders_and_networks(tmp_path: Path) -> None:
    for system, folder in {"advdiff": "advdiff/sgd/psi_0.2-0.4", "helmholtz": "helmholtz/sgd/o_1-10"}.items():
        small.make_data(tmp_path, system)
        yaml = small.write_yaml(tmp_path / "x.yaml", system)
        _, (cell,) = cells(yaml, tmp_path, "--optimizer sgd --precision float64 --spectral fft --root_dir R")
        assert cell.run(7).path == Path("R/fno_tiny", folder, "n_16", "seed_7")
        model, samples = cell.build(0), cell.load()[0]
        assert model.spectral == "fft" and model(samples.f, samples.coefficients).dtype == torch.float64
