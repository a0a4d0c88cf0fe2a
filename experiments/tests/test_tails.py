"""Tail exponents of step lengths: tables, means and picture from run folders made by hand, and the command line."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from analysis import labels, tails
from hand_made import metrics
from shell import SCRIPTS

COMMAND = [sys.executable, str(SCRIPTS / "analysis/tails.py")]


def put(root: Path, name: str, lr: float, alpha: float | None, seed: int = 0, *, loss: float = 1e-4,
        reached: bool = True, **changes: object) -> Path:  # fmt: skip
    """Write a run folder with step lengths; a CNN's unless `changes` say otherwise."""
    run = {"module": "CNN", "model": "ResNet18", "system": "cifar10", "strategy": "trajectory", "seed": seed,
           "physical": {"name": "lr", "value": lr}, "data": {"name": "n", "value": 50000}} | changes
    error = None if alpha is None else (alpha - 1) / 10
    steps = {"schema": 1, "alpha": alpha, "error": error, "distance": None if alpha is None else 0.0625, "xmin": 3.0,
             "count": 100, "log_sd": 1.25, "steps": 200, "loss": loss, "reached": reached, "iteration": 9,
             "unit": "SGD step", "lr": lr, "dropped": 0}
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics(**run)))
    (folder / "steps.json").write_text(json.dumps(steps))
    return folder


def convection(beta: float) -> dict[str, object]:
    """Return what makes a run folder that of a PINN."""
    return {"module": "PINN", "model": "PINN", "system": "convection", "strategy": "lbfgs",
            "physical": {"name": "beta", "value": beta}, "data": {"name": "n", "value": 1000}}


def tails_py(away: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=away, capture_output=True, text=True, timeout=300)


@pytest.fixture
def results(away: Path) -> Path:
    """Return a folder with two CNN learning rates, two of three seeds fitted, and a PINN at two betas."""
    root = away / "my results"
    put(root, "a0", 0.8, 2.0), put(root, "a1", 0.8, 2.5, 1), put(root, "a2", 0.8, None, 2)
    put(root, "b0", 0.1, 3.0, reached=False)
    put(root, "p20", 1.0, 9.0, **convection(20)), put(root, "p5", 1.0, 5.0, **convection(5))
    return root


def test_means_are_over_fitted_seeds_and_series_keep_their_looks(results: Path) -> None:
    found, problems = tails.find_tails([results, results / "a0"])
    assert not problems and len(found) == 6
    assert [(tail.model, tail.physical_value, tail.lr, tail.seed) for tail in found] == [
        ("PINN", 5.0, 1.0, 0), ("PINN", 20.0, 1.0, 0),
        ("ResNet18", 0.1, 0.1, 0), ("ResNet18", 0.8, 0.8, 0), ("ResNet18", 0.8, 0.8, 1), ("ResNet18", 0.8, 0.8, 2),
    ]  # fmt: skip
    assert math.isnan(found[-1].alpha) and math.isnan(found[-1].error) and found[3].error == pytest.approx(0.1)
    by_rate = {(mean.series, mean.lr): mean for mean in tails.means(found)}
    assert len(by_rate) == 4
    mean = by_rate["ResNet18, cifar10, plain SGD, n = 50000", 0.8]
    assert (mean.seeds, mean.alpha, mean.sd, mean.log_sd) == pytest.approx((2, 2.25, 0.5 / math.sqrt(2), 1.25))
    assert mean.reached == 2 and by_rate["ResNet18, cifar10, plain SGD, n = 50000", 0.1].reached == 0
    assert math.isnan(by_rate["PINN, convection β = 20, L-BFGS, n = 1000", 1.0].sd)

    # The published series have the published looks, once; another number of images has its own.
    put(results, "c0", 0.1, 2.0, data={"name": "n", "value": 1000})
    found, _ = tails.find_tails([results])
    looks = tails.looks(found)
    assert [marker for _, marker in looks.values()] == ["*", "D", "o", "s"] and len(set(looks.values())) == 4
    figure = tails.draw(found, published=True)
    (axes,) = figure.axes
    drawn = sorted((line.get_marker(), x, y, line.get_markerfacecolor()) for line in axes.lines
                   for x, y in zip(line.get_xdata(), line.get_ydata()) if line.get_marker() in set("*sDo"))  # fmt: skip
    colors = {marker: color for color, marker in looks.values()}
    assert drawn == sorted([
        ("*", 0.1, 3.0, "white"), ("*", 0.8, 2.0, colors["*"]), ("*", 0.8, 2.5, colors["*"]),
        ("D", 0.1, 2.0, colors["D"]), ("o", 1.0, 9.0, colors["o"]), ("s", 1.0, 5.0, colors["s"]),
    ])  # fmt: skip
    halves = [bar.get_segments()[0][:, 1] for container in axes.containers for bar in container[2]]
    assert sorted((high - low) / 2 for low, high in halves) == pytest.approx([0.1, 0.1, 0.15, 0.2, 0.4, 0.8])
    assert axes.get_xlabel() == labels.axis_label("lr", "cifar10") == "learning rate η"
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any("n = 1000" in text for text in words) and "1.72 to 2.83, median 2.17" in words[-1]
    assert "open: loss not reached" in words


def test_other_losses_units_and_networks_are_other_series(away: Path) -> None:
    """What must not be averaged is not; the words say by what it differs, and only there."""
    for lr in (0.1, 0.2):
        put(away, f"low {lr}", lr, 2.0), put(away, f"high {lr}", lr, 4.0, loss=1e-2, reached=lr > 0.1)
    units = put(away, "p", 1.0, 5.0, **convection(5)), put(away, "q", 1.0, 7.0, **convection(5))
    (units[1] / "steps.json").write_text((units[1] / "steps.json").read_text().replace("SGD step", "Adam step"))
    found, _ = tails.find_tails([away])
    resnet, pinn = "ResNet18, cifar10, plain SGD, n = 50000", "PINN, convection β = 5, L-BFGS, n = 1000"
    assert [(mean.series, mean.lr, mean.alpha, mean.reached) for mean in tails.means(found)] == [
        (f"{pinn}, in Adam steps", 1.0, 7.0, 1), (f"{pinn}, in SGD steps", 1.0, 5.0, 1),
        (f"{resnet}, from loss 0.0001", 0.1, 2.0, 1), (f"{resnet}, from loss 0.0001", 0.2, 2.0, 1),
        (f"{resnet}, from loss 0.01", 0.1, 4.0, 0), (f"{resnet}, from loss 0.01", 0.2, 4.0, 1),
    ]  # fmt: skip
    assert not tails.repeated(found)


def test_only_the_published_runs_have_the_published_looks(away: Path) -> None:
    """Thirteen other series have thirteen other pairs of colour and marker."""
    put(away, "full", 0.1, 2.0)
    for k, changes in enumerate([{"model": "ResNet18_w8"}, {"strategy": "sgd"}, {"system": "cifar100"},
                                 *({"data": {"name": "n", "value": n}} for n in range(100, 1100, 100))]):
        put(away, str(k), 0.1, 2.0, **changes)
    looks = tails.looks(tails.find_tails([away])[0])
    assert len(looks) == len(set(looks.values())) == 14
    assert [series for series, look in looks.items() if look == tails.RESNET] == [
        "ResNet18, cifar10, plain SGD, n = 50000"]


def test_command_prints_and_writes_tables_and_picture(results: Path, away: Path) -> None:
    result = tails_py(away, "my results", "--published")
    assert result.returncode == 0 and not result.stderr, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert "ResNet18 cifar10 trajectory n=50000 0.8 1 2.50 +- 0.15 0.062 100 of 200 1.25 0.0001".split() in lines
    assert "ResNet18 cifar10 trajectory n=50000 0.1 0 3.00 +- 0.20 0.062 100 of 200 1.25 not 0.0001".split() in lines
    assert "ResNet18 cifar10 trajectory n=50000 0.8 2 none . 100 of 200 1.25 0.0001".split() in lines
    assert "PINN convection lbfgs beta=5 n=1000 1 0 5.00 +- 0.40 0.062 100 of 200 1.25 0.0001".split() in lines
    assert "ResNet18, cifar10, plain SGD, n = 50000 0.8 2.25 0.35 1.25 2 of 2".split() in lines
    assert "differences\nbelow about twice it mean nothing." in result.stdout
    rows = list(csv.DictReader((results / "tails.csv").open()))
    assert [row["alpha"] for row in rows] == ["5.0", "9.0", "3.0", "2.0", "2.5", "nan"]
    assert rows[2]["reached"] == "False" and rows[0]["unit"] == "SGD step"
    average = list(csv.DictReader((results / "tails_means.csv").open()))[-1]
    assert float(average["alpha"]) == 2.25 and (average["seeds"], average["reached"]) == ("2", "2")
    assert (results / "tails.png").stat().st_size > 10_000 and (results / "tails.pdf").exists()
    assert not list(results.glob(".*"))


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["nowhere"], 2, "RESULTS: no such folder: nowhere"),
    ([], 2, "RESULTS"),
    (["my results", "--out", "x.pdf"], 2, "--out: 'x.pdf' must end in .png"),
    (["my results", "--out", "my results/a0/steps.json/x.png"], 2, "--out: cannot write"),
    (["my results", "copy"], 2, "RESULTS: the same series, learning rate and seed twice: "),
    (["empty"], 1, "no run with a fitted exponent below empty (1 without, 0 left out)"),
])  # fmt: skip
def test_bad_input_and_nothing_to_draw_are_one_line(
    results: Path, away: Path, arguments: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(away / "copy", "a0", 0.8, 2.0)
    put(away / "empty", "a0", 0.8, None)
    monkeypatch.chdir(away)
    try:
        ended = tails.main(arguments)
    except SystemExit as end:
        ended = end.code
    out, err = capsys.readouterr()
    assert ended == code and not out
    assert err.count("\n") == 1 and says in err
    assert not list(away.rglob("tails*"))


def test_what_cannot_be_read_is_named_and_left_out(results: Path, away: Path) -> None:
    good = json.loads((results / "a0/steps.json").read_text())
    for name, change, says in (
        ("w0", {"schema": 2}, "steps.json: not a JSON object with schema 1"),
        ("w1", {"lr": None}, "steps.json: lr is None, not a positive number"),
        ("w2", {"alpha": "2"}, "steps.json: '2' is not a number"),
        ("w3", {"count": None}, "steps.json: "),
    ):
        (put(results, name, 0.3, 2.0) / "steps.json").write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=f"^{says}"):
            tails.read_tail(results / name)
    (put(results, "x0", 0.4, 2.0) / "metrics.json").unlink()
    (put(results, "x1", 0.4, 2.0) / "metrics.json").write_text("{}")
    (put(results, "x2", 0.4, 2.0) / "steps.json").write_text("[" * 100_000)
    (put(results, "x3", 0.4, 2.0) / "steps.json").write_text(json.dumps({k: v for k, v in good.items() if k != "lr"}))
    found, problems = tails.find_tails([results])
    assert len(found) == 6 and len(problems) == 8
    assert any("x0: metrics.json: the run is not finished" in problem for problem in problems)
    assert any("x3: steps.json: key 'lr' is missing" in problem for problem in problems)
    result = tails_py(away, "my results")
    assert result.returncode == 0 and result.stderr.count("left out: ") == 8
