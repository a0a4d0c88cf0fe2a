"""`--hessian_every`: the highest eigenvalue along training, of the reported loss, and nothing else changed by it."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinn.arguments import parse
from pinn.files import UsageError
from pinn.hessian import Times, flatten, gradients_of, hessian_product, lambda_max
from pinn.session import Signals
from pinn.strategies.base import Row
from pinn.train import train

TINY = "--budget smoke --num_res 30 --num_x 33 --num_t 11 --num_neurons 4 --num_layers 3 --device cpu"


def trained(arguments: str, path: Path) -> dict[str, Path]:
    """Train tiny runs; their folders by name of the physical value."""
    settings, physical, seeds = parse([*shlex.split(f"{TINY} {arguments}"), "--save_path", str(path)])
    assert train(settings[0], settings[0].runs(physical, seeds)) == 0
    return {found.parts[-4]: found.parent for found in sorted(path.rglob("metrics.json"))}


def table(folder: Path) -> list[dict[str, str]]:
    """history.csv."""
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def exact(folder: Path) -> float:
    """The highest eigenvalue of the dense Hessian of the plain loss at the final weights, from the stored ones."""
    config = json.loads((folder / "config.json").read_text())
    settings, physical, seeds = parse([*shlex.split(TINY), "--precision", "float64", "--save_path", "unused",
                                       "--pde_params", json.dumps(config["pde_params"])])
    objective = settings[0].objective([Row(run.key) for run in settings[0].runs(physical, seeds)])
    params = [p[None].double().requires_grad_() for p in torch.load(folder / "model.pt")["params"]]
    product = hessian_product(gradients_of(objective.losses(params, torch.arange(1)), params), params, torch.arange(1))
    size = flatten(params, params).shape[1]
    dense = torch.cat([product(row[None]) for row in torch.eye(size, dtype=torch.float64)])
    return torch.linalg.eigvalsh(dense)[-1].item()


@pytest.mark.parametrize("text, before, now, last, due", [
    ("0", 0, 100, 100, False), ("10", 0, 9, 100, False), ("10", 9, 10, 100, True), ("10", 10, 19, 100, False),
    ("10", 15, 35, 100, True), ("log:3", 0, 1, 100, True), ("log:3", 1, 9, 100, False), ("log:3", 9, 10, 100, True),
    ("log:3", 10, 99, 100, False), ("log:3", 99, 100, 100, True), ("log:1", 0, 99, 100, False),
    ("log:1", 99, 100, 100, True),
])
def test_times(text: str, before: int, now: int, last: int, due: bool) -> None:
    """Every N-th iteration, and 1, 10, 100 for three log-spaced ones of 100."""
    times = Times.parse(text)
    assert times.due(before, now, last) is due and str(times) == text and bool(times) == (text != "0")


def test_times_of_log() -> None:
    """20 times by default, from the first iteration, to which two are rounded, to the last."""
    times = Times.parse("log")
    found = [k for k in range(1, 2001) if times.due(k - 1, k, 2000)]
    assert (found[0], found[-1]) == (1, 2000) and len(found) == 19
    ratios = [b / a for a, b in zip(found[6:], found[7:])]
    assert max(ratios) / min(ratios) < 1.1
    for text in ("-1", "1.5", "log:0", "log:-2", "log:", "linear:3", ""):
        with pytest.raises(UsageError, match="--hessian_every must be a whole number"):
            Times.parse(text)


@pytest.mark.parametrize("strategy", ["lbfgs", "alm", "cl --cl_increment 1", "ropinn", "nncg"])
def test_along_training(strategy: str, tmp_path: Path) -> None:
    """Final values are those of the plain loss, whatever is minimised; weights and all other columns stay the same."""
    arguments = "--pde_params '{\"beta\": [1, 2]}' --num_res 30 --opt " + strategy
    watched = trained(f"{arguments} --hessian_every log:4", tmp_path / "watched")
    for name, plain in trained(arguments, tmp_path / "plain").items():
        folder = watched[name]
        for a, b in zip(*(torch.load(f / "model.pt")["params"] for f in (plain, folder)), strict=True):
            assert torch.equal(a, b)
        lines = table(folder)
        measured = [line for line in lines if line["lambda_max"]]
        assert measured[0] is lines[0] and measured[-1] is lines[-1]
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        assert float(lines[-1]["lambda_max"]) == metrics["lambda_max"]
        for line in measured:
            assert 0 <= float(line["lambda_max_residual"]) <= 1e-3 * abs(float(line["lambda_max"]))
        assert metrics["lambda_max"] == pytest.approx(exact(folder), rel=1e-3)
        before = {line["iteration"]: line for line in table(plain)}
        same = [line for line in lines if line["iteration"] in before]
        assert len(same) > 1
        for line in same:
            kept = {key: value for key, value in line.items() if not key.startswith(("lambda_max", "seconds"))}
            assert kept.items() <= before[line["iteration"]].items()


def test_none_of_the_way_is_left_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, and gone on with without --hessian_every: there is no value of the final weights then."""
    monkeypatch.setattr(Signals, "requested", property(lambda self: "SIGTERM", lambda self, value: None), raising=False)
    arguments = [*shlex.split(TINY), "--opt", "adam", "--iterations", "6", "--pde_params", '{"beta": 2}',
                 "--save_path", str(tmp_path)]
    settings, physical, seeds = parse([*arguments, "--hessian_every", "1"])
    assert train(settings[0], settings[0].runs(physical, seeds)) == 75
    monkeypatch.undo()
    settings, physical, seeds = parse(arguments)
    assert train(settings[0], settings[0].runs(physical, seeds)) == 0
    folder = next(tmp_path.rglob("metrics.json")).parent
    assert [bool(line["lambda_max"]) for line in table(folder)] == [True, True, False]
    assert "lambda_max" not in json.loads((folder / "metrics.json").read_text())["metrics"]


def test_times_are_those_of_each_row(tmp_path: Path) -> None:
    """Rows of a curriculum differ in length; their times do not depend on each other."""
    arguments = "--opt cl --cl_increment 1 --iterations 3 --hessian_every log:5 --opt_params '{\"inner\": \"adam\"}' "
    alone = trained(arguments + "--pde_params '{\"beta\": 2.5}'", tmp_path / "alone")["beta_2.5"]
    company = trained(arguments + "--pde_params '{\"beta\": [2.5, 9]}'", tmp_path / "company")["beta_2.5"]
    times = [[line["iteration"] for line in table(folder) if line["lambda_max"]] for folder in (alone, company)]
    assert times[0] == times[1] and len(times[0]) > 3


def test_company_changes_nothing() -> None:
    """Runs side by side have the eigenvalues that they have alone."""
    settings, physical, _ = parse([*shlex.split(TINY), "--pde_params", '{"beta": [1, 20, 5]}', "--save_path", "unused",
                                   "--precision", "float64"])
    rows = [Row(run.key) for run in settings[0].runs(physical, [0])]

    def values(some: list[Row], wanted: list[int]) -> torch.Tensor:
        params, strategy = settings[0].build(some)
        wanted = torch.tensor(wanted)
        return lambda_max(strategy.objective.training_losses(params, wanted), params, wanted).value

    together = values(rows, [0, 2])
    torch.testing.assert_close(together, torch.cat([values([rows[0]], [0]), values([rows[2]], [0])]))
    assert together[1] > 2 * together[0]
