"""Figures of landscapes from run folders made by hand: what is read and drawn, and verdicts that come out both ways."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import figures
import numpy as np
import pytest
from analysis import checks, diagnoses, figure_density, figure_landscape, figure_sharpening, landscape_figures
from analysis.diagnoses import Case
from hand_made import metrics
from scipy import integrate, stats

NAN = math.nan


def put(root: Path, name: str, case: Case, seed: int = 0, **changes: object) -> Path:
    """Write the metrics.json of a run of a cell; returns the folder."""
    folder = root / name
    folder.mkdir(parents=True)
    where = {"model": case.model, "module": case.model, "system": case.system, "strategy": case.strategy, "seed": seed,
             "physical": {"name": case.physical_name, "value": case.physical}, "metrics": {},
             "data": {"name": case.data_name, "value": case.data}}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics(**where | changes)))
    return folder


def put_hessian(folder: Path, nodes: dict[str, list[float]], loss: float = 1e-4) -> None:
    """Write a spectrum, equal weights, by state; no nodes: not finite."""
    states, arrays = {}, {}
    for name, values in nodes.items():
        states[name] = {"finite": bool(values), "train_loss": loss if values else None}
        if values:
            arrays |= {f"{name}_nodes": np.array([[*values, NAN]]),
                       f"{name}_weights": np.array([[1 / len(values)] * len(values) + [0.0]])}  # fmt: skip
            states[name] |= {"lambda_max": max(values), "lambda_min": min(values),
                             "mass": {"eps": 1e-6, "threshold": 1e-6 * max(values), "below": 0.25, "within": 0.5}}
    (folder / "hessian.json").write_text(json.dumps({"schema": 1, "tool": "hessian", "states": states}))
    np.savez(folder / "hessian.npz", **arrays)


def put_landscape(folder: Path, loss: np.ndarray) -> None:
    g = len(loss)
    arguments = {"directions": "eigen", "normalise": "filter"}
    text = {"schema": 1, "tool": "landscape", "arguments": arguments}
    (folder / "landscape.json").write_text(json.dumps(text))
    np.savez(folder / "landscape.npz", a=np.linspace(-0.5, 0.5, g), b=np.linspace(-0.5, 0.5, g), loss=loss)


def put_history(folder: Path, points: list[tuple[int, float, float | None]]) -> None:
    lines = ["iteration,train_loss,lambda_max"]
    lines += [f"{k},{loss},{'' if value is None else value}" for k, loss, value in points]
    (folder / "history.csv").write_text("\n".join(lines) + "\n")


def put_paths(folder: Path, losses: tuple[float, float], middle: float, errors: tuple[float, float]) -> None:
    t = np.linspace(0, 1, 5)
    loss, error = (np.geomspace(*ends, 5) for ends in (losses, errors))
    barrier = max(0.0, math.log10(middle / loss[2]))
    loss[2] = middle
    paths = {name: {"barrier_log10": barrier} for name in ("chord", "bezier")}
    name = "connectivity_alm-beta_30-n_1000-seed_0"
    (folder / f"{name}.json").write_text(json.dumps({"schema": 1, "tool": "connectivity", "paths": paths}))
    np.savez(folder / f"{name}.npz", t=t, chord_loss=loss, chord_error=error, bezier_loss=loss, bezier_error=error)


def put_steps(folder: Path, alpha: float, error: float = 0.1, lr: float = 1.0) -> None:
    steps = {"schema": 1, "alpha": alpha, "error": error, "distance": 0.06, "xmin": 3.0, "count": 100, "log_sd": 1.2,
             "steps": 200, "loss": 1e-2, "reached": True, "iteration": 9, "unit": "step", "lr": lr, "dropped": 0}
    (folder / "steps.json").write_text(json.dumps(steps))


@pytest.fixture(scope="module")
def wanted() -> dict[int, list[Case]]:
    """Return the panels of each figure at laptop scale, asked once."""
    return {number: diagnoses.ask(number, "laptop")[0] for number in landscape_figures.FIGURES}


def judge(number: int, root: Path, cases: list[Case]) -> list[checks.Check]:
    """Return the checks of a figure on all runs below a folder."""
    figure = landscape_figures.FIGURES[number]
    panels, left_out = figure.read(cases, folders(root))
    assert left_out == []
    return figure.checks(panels)


def folders(root: Path) -> list[tuple]:
    found = figures.collect.collect(root)
    assert not found.corrupt
    return [(run, root / run.path) for run in found.runs]


def verdicts(number: int, root: Path, cases: list[Case]) -> list[bool | None]:
    return [check.holds for check in judge(number, root, cases)]


# ---- what is computed --------------------------------------------------------------------------------------------


def test_density_is_the_sum_of_gaussians() -> None:
    nodes, weights = np.array([[-3.0, 0.0, 40.0], [1.0, 2.0, NAN]]), np.array([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0]])
    grid, density = figure_density.curve(np.nan_to_num(nodes), weights)
    width = math.sqrt(5e-5 * 43)
    seen = weights > 0
    exact = sum(w * stats.norm.pdf(grid, x, width) for x, w in zip(nodes[seen], weights[seen])) / 2
    assert integrate.trapezoid(density, grid) == pytest.approx(1, abs=1e-9)
    assert np.abs(density - exact).max() < 0.01 * exact.max()
    far = (grid > 39) & (exact > 1e-9)
    assert np.allclose(np.log(density[far]), np.log(exact[far]), atol=0.5)  # down to the lowest density shown
    single = figure_density.curve(np.array([[7.0]]), np.array([[1.0]]))
    assert integrate.trapezoid(single[1], single[0]) == pytest.approx(1)


def test_split_is_where_the_plateau_is_reached_for_good() -> None:
    rise = np.log(np.array([1, 1, 2, 4, 8, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10.0]))
    assert figure_sharpening.split(rise) == 5
    spike = rise.copy()
    spike[1] = math.log(20)  # one point is no plateau
    assert figure_sharpening.split(spike) == 5
    dip = rise.copy()
    dip[8:12] = math.log(3)
    assert figure_sharpening.split(dip) == 12
    grows = np.linspace(0, 9, 10)
    assert figure_sharpening.split(grows) >= 7
    assert figure_sharpening.split(np.zeros(3)) == 0


def test_shape_of_surfaces(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    a = np.linspace(-0.5, 0.5, 11)
    x, y = np.meshgrid(a, a, indexing="ij")
    bowl = figure_landscape.Surface(None, a, a, 1e-2 + 0.01 * (x**2 + y**2), "")
    valley = figure_landscape.Surface(None, a, a, 1e-6 + 10 * x**2, "")
    waves = figure_landscape.Surface(None, a, a, 1.0 + 0.5 * np.cos(np.pi * 5 * x) * np.cos(np.pi * 5 * y), "")
    assert (bowl.minima, bowl.floor) == (1, 1.0) and bowl.depth == pytest.approx(0.12, abs=0.03)
    assert valley.floor == pytest.approx(1 / 11) and valley.depth > 5 and waves.minima > 5
    loss = bowl.loss.copy()
    loss[0, 0] = math.inf
    broken = figure_landscape.Surface(None, a, a, loss, "")
    assert np.isfinite(broken.z).all() and broken.z[0, 0] == bowl.z[0, 1:].max()


def test_rank_correlation_of_few_or_equal_cells_is_not_there() -> None:
    assert checks.rank_correlation([1, 2, 3, 4, NAN], [8, 6, 4, 2, 0]) == pytest.approx(-1)
    assert math.isnan(checks.rank_correlation([1, 2, 3], [1, 2, 3]))
    assert math.isnan(checks.rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]))


# ---- verdicts, both ways -----------------------------------------------------------------------------------------


def test_verdicts_on_spectra(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    wide, peaked = [-2.0, 10.0, 300.0, 2e3], [0.0, 0.0, 0.0, 12.0]
    for name, pinn, large, resnet, says in (
        ("as paper", wide, [1.0, 50.0, 900.0, 2e4], peaked, [True, True, True]),
        ("flat", [1.0, 2.0], [0.0, 0.0, 3.0], [9.0, 900.0], [False, False, False]),
    ):
        for case, values in zip(wanted[6], (pinn, large, wide, wide, resnet)):
            put_hessian(put(tmp_path / name, case.letter, case), {"initial": [1.0, 2.0], "final": values})
        assert verdicts(6, tmp_path / name, wanted[6]) == says
        assert verdicts(16, tmp_path / name, wanted[16])[0] in (says[2], None)
    for case in wanted[6][:1]:  # one PINN alone, and it diverged
        put_hessian(put(tmp_path / "alone", case.letter, case), {"initial": wide, "final": []})
    assert verdicts(6, tmp_path / "alone", wanted[6]) == [None, None, None]
    # Figure 13: the sharper minimum at the lower loss.
    for name, sharp, loss, holds in (("sharper", 500.0, 1e-5, True), ("flatter", 5.0, 1e-5, False),
                                     ("worse", 500.0, 1.0, False)):  # fmt: skip
        for case, value, low in zip(wanted[13], (sharp, 50.0), (loss, 1e-2)):
            folder = put(tmp_path / name, case.letter, case)
            put_hessian(folder, {"final": [0.0, value]}, low)
            put_landscape(folder, np.ones((3, 3)))
        assert verdicts(13, tmp_path / name, wanted[13]) == [holds]


def test_verdicts_on_surfaces(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    a = np.linspace(-1, 1, 21)
    x, y = np.meshgrid(a, a, indexing="ij")
    bowl, rugged = 1e-2 + 0.05 * (x**2 + y**2), 1e-6 + x**2 * (1.2 + np.cos(9 * x) * np.cos(9 * y))
    for name, scientific, resnet, says in (("as paper", rugged, bowl, [True, True, True]),
                                           ("turned", bowl, rugged, [False, False, False])):  # fmt: skip
        for case in wanted[5]:
            put_landscape(put(tmp_path / name, case.letter, case), resnet if case.letter == "e" else scientific)
        assert verdicts(5, tmp_path / name, wanted[5]) == says
    put_landscape(put(tmp_path / "one", "a", wanted[5][0]), rugged)
    assert verdicts(5, tmp_path / "one", wanted[5]) == [None, None, None]


def course(sharper: float, falls: float = 1e-4) -> list[tuple[int, float, float | None]]:
    """Return a history in which lambda_max grows by a factor while the loss falls by another, then both stay."""
    start = [(10 * k, falls ** (k / 5), 100 * sharper ** (k / 5)) for k in range(6)]
    return start + [(55, falls, None)] + [(100 * k, falls, 100 * sharper) for k in range(1, 12)]


def test_verdicts_on_sharpening(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    (case,) = wanted[7]
    for name, sharper, falls, says in (
        ("rises", 5, 1e-4, [True, True, True]), ("sinks", 0.2, 1e-4, [False, False, False]),
        ("fails", 5, 3.0, [False, False, True]),
    ):  # fmt: skip
        for seed in range(3):
            put_history(put(tmp_path / name, f"s{seed}", case, seed), course(sharper + seed / 100, falls))
        assert verdicts(7, tmp_path / name, wanted[7]) == says
    put_history(put(tmp_path / "single", "s0", case), course(5))
    assert verdicts(7, tmp_path / "single", wanted[7]) == [None, True, True]
    put_history(put(tmp_path / "growing", "s0", case), [(k, 0.5**k, 2.0**k) for k in range(12)])
    assert verdicts(7, tmp_path / "growing", wanted[7])[2] is None

    for name, low, high, says in (("more", 3, 9, [True, True]), ("less", 9, 3, [True, False]),
                                  ("none", 1, 1, [False, False])):  # fmt: skip
        for case in wanted[12]:
            for seed in (0, 1):
                put_history(put(tmp_path / f"12{name}", f"{case.letter}{seed}", case, seed),
                            course(high if case.physical == 50 else low))  # fmt: skip
        assert verdicts(12, tmp_path / f"12{name}", wanted[12]) == [*says, False]
    assert verdicts(12, tmp_path / "single", wanted[12])[1:] == [None, None]


def test_mean_is_over_the_iterations_that_all_seeds_have(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    (case,) = wanted[7]
    put_history(put(tmp_path, "s0", case, 0), [(0, 1.0, 10.0), (5, 1e-2, 100.0), (9, 1e-3, 100.0), (11, 1e-4, 7.0)])
    put_history(put(tmp_path, "s1", case, 1), [(0, 1.0, 1000.0), (5, 1e-4, 100.0), (9, 1e-3, NAN), (10, 1.0, 1.0)])
    (panel,), _ = landscape_figures.FIGURES[7].read(wanted[7], folders(tmp_path))
    mean = figure_sharpening.average(panel.found)
    assert mean.iterations.tolist() == [0, 5] and mean.seeds == 2
    assert np.exp(mean.curvature) == pytest.approx([100, 100]) and np.exp(mean.loss) == pytest.approx([1, 1e-3])
    assert mean.curvature_sd == pytest.approx([math.log(100) / math.sqrt(2), 0])


def test_verdicts_on_maps(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    for name, turn in (("as paper", 1), ("turned", -1)):
        for k, case in enumerate(wanted[11]):
            number = float(str(case.physical).split("-")[0])
            curvature, loss = 1e4 * number ** (-0.5 * turn), 1e-2 * number
            if k % 2:
                put(tmp_path / name, f"{k}", case, train_loss=loss, metrics={"lambda_max": curvature})
            else:  # of a finished run that was looked at later
                put_hessian(put(tmp_path / name, f"{k}", case, train_loss=loss), {"final": [0.0, curvature]})
        assert verdicts(11, tmp_path / name, wanted[11]) == [turn == 1] * 3
    panels, _ = landscape_figures.FIGURES[11].read(wanted[11], folders(tmp_path / "as paper"))
    rows = landscape_figures.FIGURES[11].table(panels)
    assert len(rows) == 16 + 20 and all(row["seeds"] == 1 for row in rows)
    # A cell is the logarithm of the mean over seeds.
    case = wanted[11][-1]
    for seed in (1, 2):
        put(tmp_path / "seeds", str(seed), case, seed, metrics={"lambda_max": 10.0**seed})
    put(tmp_path / "seeds", "without", case, 0)
    panels, _ = landscape_figures.FIGURES[11].read(wanted[11], folders(tmp_path / "seeds"))
    (row,) = [row for row in landscape_figures.FIGURES[11].table(panels) if row["seeds"]]
    assert row["log10_lambda_max"] == pytest.approx(math.log10(55)) and row["seeds"] == 2
    assert verdicts(11, tmp_path / "seeds", wanted[11]) == [None, None, None]


def test_verdicts_on_tails_and_paths(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    for name, alphas, says in (("as paper", (4, 6, 3, 2), [True, True, True]), ("turned", (4, 2, 3, 7), [False] * 3),
                               ("close", (3.1, 3.0, 3.0, 3.0), [None] * 3)):  # fmt: skip
        for case in wanted[14]:
            rates = sorted(case.physical for case in wanted[14] if case.model != "PINN")
            pinn = case.model == "PINN"
            alpha = alphas[(case.physical == 20.0) if pinn else 2 + (case.physical == rates[-1])]
            put_steps(put(tmp_path / name, case.letter, case), alpha, lr=1.0 if pinn else case.physical)
        assert verdicts(14, tmp_path / name, wanted[14]) == says
    case = next(case for case in wanted[15] if case.strategy == "lbfgs")
    for name, ends, middle, errors, says in (
        ("valley", (1e-2, 1e-4), 1e-3, (0.9, 0.01), [True, True, True]),
        ("ridge", (1e-2, 5e-3), 1.0, (0.5, 0.4), [False, False, False]),
    ):
        put_paths(put(tmp_path / name, "a", case), ends, middle, errors)
        assert verdicts(15, tmp_path / name, wanted[15]) == says
    put(tmp_path / "none", "a", case)
    assert verdicts(15, tmp_path / "none", wanted[15]) == [None, None, None]


# ---- the command -------------------------------------------------------------------------------------------------


def test_command_draws_all_and_lists_what_is_missing(
    wanted: dict[int, list[Case]], away: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(away)
    monkeypatch.setattr(diagnoses, "ask", lambda number, _: (wanted[number], ""))
    root = away / "my results"
    seen: dict[tuple, Path] = {}
    for number, cases in wanted.items():
        for case in cases if number != 11 else cases[:6] + cases[-9:]:
            key = case.system, case.strategy, case.physical, case.data
            if key not in seen:
                seen[key] = put(root, str(len(seen)), case, metrics={"lambda_max": 9.0 + len(seen)})
    wave = 1 + np.cos(np.linspace(-9, 9, 9))[:, None] * np.linspace(1, 3, 9)
    wave[0, 0] = math.inf
    for k, folder in enumerate(seen.values()):
        put_hessian(folder, {"initial": [-30.0, 0.0, 200.0], "final": [0.0, 1e-3, 900.0 + k]})
        put_landscape(folder, wave + 1e-3)
        put_history(folder, course(3 + k))
        put_steps(folder, 3.0 + k / 10)
    put_paths(seen["convection", "lbfgs", 30.0, 1000.0], (1e-2, 1e-4), 1e-3, (0.9, 0.01))
    (seen["reaction_diffusion", "lbfgs", 5.0, 1000.0] / "hessian.npz").write_bytes(b"broken")
    numbers = ["7", "11", "13", "15"]
    assert figures.main([*numbers, "--results", str(root), "--out", "out", "--dpi", "40"]) == 0
    said = capsys.readouterr().out
    written = {path.name for path in Path("out").iterdir()}
    assert written == {f"figure_{n}{end}" for n in numbers for end in (".png", ".pdf", ".csv", "_checks.csv")}
    assert "(a) PINN, N_f = 1000, ρ = 5: 0 of 1 runs with landscape.json and hessian.json" in said
    assert re.search(r"left out: .*hessian.npz: .", said)
    assert "FIGURE=13 SCALE=laptop bash " in said and "# 1 of 2 runs missing" in said
    assert "FNO, poisson, Adam: 6 of 16 runs with lambda_max" in said
    assert "    cannot be told: one seed only" in said and "    holds" in said
    with Path("out/figure_15_checks.csv").open() as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["holds"] * 3
    for number, count in ((5, 5), (6, 5), (12, 8), (14, 1)):  # frames; two axes a panel in 12
        figure = landscape_figures.FIGURES[number]
        panels, _ = figure.read(wanted[number], folders(root))
        assert len(figure.draw(panels).axes) == count and len(figure.table(panels)) >= len(wanted[number])

    # Nothing there: the commands alone.
    (away / "empty").mkdir()
    assert figures.main(["7", "--results", "empty", "--out", "other", "--scale", "smoke"]) == 1
    said = capsys.readouterr().out
    assert "FIGURE=7 SCALE=smoke bash " in said and "nothing to draw" in said and not Path("other").exists()
    for arguments, named in ((["6", "--perturbation", "value"], "--perturbation: goes with regime maps only"),
                             (["6", "--thresholds", "table5"], "--thresholds: goes with regime maps only")):
        with pytest.raises(SystemExit) as stop:
            figures.main(arguments)
        assert stop.value.code == 2 and f"error: {named}" in capsys.readouterr().err
