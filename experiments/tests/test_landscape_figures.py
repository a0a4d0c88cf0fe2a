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
from analysis import checks, diagnoses, figure_path, figure_sharpening, landscape_figures
from analysis.diagnoses import Case
from analysis.landscape_figures import Plan
from landscape_runs import (
    NAN,
    course,
    folders,
    put,
    put_hessian,
    put_history,
    put_landscape,
    put_paths,
    put_steps,
)


@pytest.fixture(scope="module")
def wanted() -> dict[int, list[Case]]:
    """Return the panels of each figure at laptop scale, asked once."""
    found = {number: diagnoses.ask(number, "laptop")[0] for number in landscape_figures.FIGURES if number != 5}
    return {5: found[6]} | found


def judge(number: int, root: Path, cases: list[Case], scale: str = "paper") -> list[checks.Check]:
    """Return the checks of a figure on all runs below a folder, as if the cells were those of a scale."""
    figure = landscape_figures.FIGURES[number]
    panels, left_out = figure.read(cases, folders(root))
    assert left_out == []
    return Plan(figure, panels, left_out, "", scale).checks()


def verdicts(number: int, root: Path, cases: list[Case]) -> list[bool | None]:
    return [check.holds for check in judge(number, root, cases)]


def test_cells_are_those_of_the_script(wanted: dict[int, list[Case]]) -> None:
    assert [case.name for case in wanted[6]] == [
        "PINN, N_f = 100, β = 5", "PINN, N_f = 500, β = 50", "FNO, n = 64, K = 2.5-5", "FNO, n = 1024, K = 100-200",
        "ResNet18_w8, n = 1000, η = 0.1"]  # fmt: skip
    assert [case.network for case in wanted[6]] == ["", "", "fno_64K", "fno_64K", ""]
    assert [(case.letter, case.physical, case.data, case.seeds) for case in wanted[7]] == [("a", 5, 1000, (0, 1, 2))]


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
        assert [check.holds for check in judge(6, tmp_path / name, wanted[6], "laptop")] == [None, None, says[2]]
    # Figure 16: refuted by one of the PINNs, and does not hold before all are there.
    near = [0.0, 0.0, 900.0]
    for name, values, count, says in (("all", wide, 4, True), ("some", wide, 1, None), ("refuted", near, 1, False)):
        for case in [*wanted[16][:count], wanted[16][-1]]:
            put_hessian(put(tmp_path / name, case.letter, case),
                        {"final": values if case.model == "PINN" else peaked})  # fmt: skip
        (check,) = judge(16, tmp_path / name, wanted[16])
        assert check.holds is says
        assert "within 0.01: 0.0%; within eps 0.002: 50.0%, between 25.0% and 75.0%" in check.here or values is near
    for case in wanted[6][:1]:  # one PINN alone, and it diverged
        put_hessian(put(tmp_path / "alone", case.letter, case), {"initial": wide, "final": []})
    assert verdicts(6, tmp_path / "alone", wanted[6]) == [None, None, None]
    # Figure 13: the sharper minimum at the lower loss.
    for name, sharp, loss, holds in (("sharper", 500.0, 1e-5, True), ("flatter", 5.0, 1e-5, False),
                                     ("worse", 500.0, 1.0, False), ("close", 52.0, 1e-5, None)):  # fmt: skip
        for case, value, low in zip(wanted[13], (sharp, 50.0), (loss, 1e-2)):
            folder = put(tmp_path / name, case.letter, case)
            put_hessian(folder, {"final": [0.0, value]}, low)
            put_landscape(folder, np.ones((3, 3)))
        assert verdicts(13, tmp_path / name, wanted[13]) == [holds]


def test_verdicts_on_surfaces(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    a = np.linspace(-1, 1, 21)
    x, y = np.meshgrid(a, a, indexing="ij")
    bowl, rugged = 1e-2 + 0.05 * (x**2 + y**2), 1e-6 + (x**2 + 0.1 * (y**2 - 0.25) ** 2)
    for name, scientific, resnet, says in (("as paper", rugged, bowl, [True, True, True]),
                                           ("turned", bowl, rugged, [False, False, False])):  # fmt: skip
        for case in wanted[5]:
            put_landscape(put(tmp_path / name, case.letter, case), resnet if case.letter == "e" else scientific)
        assert verdicts(5, tmp_path / name, wanted[5]) == says
    put_landscape(put(tmp_path / "one", "a", wanted[5][0]), rugged)
    assert verdicts(5, tmp_path / "one", wanted[5]) == [None, None, None]


def test_verdicts_on_sharpening(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    (case,) = wanted[7]
    for name, sharper, falls, says in (
        ("rises", 5, 1e-4, [True, True, True]), ("sinks", 0.2, 1e-4, [False, False, False]),
        ("fails", 5, 3.0, [False, False, True]), ("hardly", 1.5, 1e-4, [None, True, False]),
    ):  # fmt: skip
        for seed in range(3):  # whose lines lie at different iterations
            put_history(put(tmp_path / name, f"s{seed}", case, seed), course(sharper + seed / 100, falls, seed))
        assert verdicts(7, tmp_path / name, wanted[7]) == says
    put_history(put(tmp_path / "single", "s0", case), course(5))
    assert verdicts(7, tmp_path / "single", wanted[7]) == [None, None, None]  # two are missing
    put_history(put(tmp_path / "sunk", "s0", case), course(0.2))
    assert verdicts(7, tmp_path / "sunk", wanted[7]) == [False, False, False]
    put_history(put(tmp_path / "growing", "s0", case), [(k, 0.5**k, 2.0**k) for k in range(12)])
    assert verdicts(7, tmp_path / "growing", wanted[7])[2] is None
    # The loss falls fastest in a dip, before lambda_max rises.
    dip = [(k, loss, value) for k, loss, value in zip((0, 20, 40, 60, 90, 200, 500, 900), (1, 0.1, 1e-3, 1e-4, 9e-5,
           8e-5, 7e-5, 7e-5), (100, 70, 50, 40, 60, 150, 250, 250))]  # fmt: skip
    for seed in range(3):
        put_history(put(tmp_path / "dip", f"s{seed}", case, seed), dip)
    assert verdicts(7, tmp_path / "dip", wanted[7])[:2] == [True, False]
    # Too few points, in all seeds or in one, which then is missing.
    for name, last, says in (("few", 3, [None] * 3), ("short", 8, [None, False, None])):
        for seed in range(3):
            put_history(put(tmp_path / name, f"s{seed}", case, seed), dip[:last if seed else 3])
        assert verdicts(7, tmp_path / name, wanted[7]) == says
        figure = landscape_figures.FIGURES[7]
        panels, _ = figure.read(wanted[7], folders(tmp_path / name))
        assert len(figure.draw(panels).axes) == 2 and {row["phase"] for row in figure.table(panels)} == {""}

    for name, low, high, seeds, says in (
        ("more", 3, 9, 3, [True, True, None]), ("less", 9, 3, 3, [True, False, None]),
        ("none", 1, 1, 3, [False, None, None]), ("partly", 9, 3, 1, [None, False, None]),
        ("close", 3, 3.01, 1, [None, None, None]),
    ):  # fmt: skip
        for case in wanted[12]:
            for seed in range(seeds):
                put_history(put(tmp_path / f"12{name}", f"{case.letter}{seed}", case, seed),
                            course(high if case.physical == 50 else low))  # fmt: skip
        assert verdicts(12, tmp_path / f"12{name}", wanted[12]) == says
    assert verdicts(12, tmp_path / "single", wanted[12]) == [None, None, None]


def test_seeds_are_interpolated_to_common_iterations(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    (case,) = wanted[7]
    put_history(put(tmp_path, "s0", case, 0), [(0, 1.0, 10.0), (9, 1e-2, 100.0), (99, 1e-4, 1e3), (120, 1.0, 7.0)])
    put_history(put(tmp_path, "s1", case, 1), [(0, 1.0, 1000.0), (50, 1e-3, NAN), (99, 1e-2, 1000.0)])
    (panel,), _ = landscape_figures.FIGURES[7].read(wanted[7], folders(tmp_path))
    shared = figure_sharpening.align(panel.found)
    assert shared.iterations.tolist() == [0, 9, 99] and shared.split is None
    assert np.exp(shared.curvature[1]) == pytest.approx([1000] * 3)
    assert np.exp(shared.loss) == pytest.approx(np.array([[1, 1e-2, 1e-4], [1, 1e-1, 1e-2]]))
    assert figure_sharpening.spread(shared.curvature) == pytest.approx(
        [math.log(100) / math.sqrt(2), math.log(10) / math.sqrt(2), 0], abs=1e-12)  # fmt: skip


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
    # Refuted by half of the cells, but not shown by them; a loss that is not finite is high; and noise tells nothing.
    for name, lowest, says in (("easy", 10.0, False), ("hard", 1e3, None)):
        for k, case in enumerate(case for case in wanted[11] if case.model == "PINN" and case.physical != 1.0):
            value = lowest if case.physical < 15 else 100.0
            lost = {"train_loss": None, "status": "diverged"} if case.physical > 20 else {}
            put(tmp_path / name, str(k), case, metrics={"lambda_max": value}, **lost)
        assert verdicts(11, tmp_path / name, wanted[11])[2] is says
    put(tmp_path / "nowhere", "0", wanted[11][0], metrics={"lambda_max": -1.0})  # no logarithm anywhere
    assert verdicts(11, tmp_path / "nowhere", wanted[11]) == [None, None, None]
    rng = np.random.default_rng(0)
    for k, case in enumerate(case for case in wanted[11] if case.model == "FNO"):
        put(tmp_path / "noise", str(k), case, train_loss=rng.random(), metrics={"lambda_max": 100 + rng.random()})
    assert verdicts(11, tmp_path / "noise", wanted[11])[:2] == [None, None]


def test_runs_of_a_cell_are_of_its_network(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    fno, resnet = (next(case for case in wanted[number] if case.model.startswith(name))
                   for number, name in ((11, "FNO"), (6, "ResNet")))  # fmt: skip
    for where, value in (("fno_64K/poisson", 1.0), ("fno_1M/poisson", 2.0), ("other/maps/poisson", 3.0)):
        put(tmp_path, f"{where}/adam/seed_0", fno, 0, metrics={"lambda_max": value})
    put(tmp_path, "fno_64K/poisson/adam/seed_1", fno, 1, metrics={"lambda_max": 4.0})  # not in maps: shown all the same
    put_hessian(put(tmp_path, "wide", resnet, model="ResNet18"), {"final": [1.0]})
    panels, _ = landscape_figures.FIGURES[11].read(wanted[11], folders(tmp_path))
    assert [run.metrics["lambda_max"] for panel in panels for run in panel.found] == [3.0, 4.0]
    panels, _ = landscape_figures.FIGURES[6].read(wanted[6], folders(tmp_path))
    assert not any(panel.found for panel in panels)


def test_malformed_files_are_left_out_and_named(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    """null for an object, a list for an object, keys that are missing: one line each, and the others are drawn."""
    case = wanted[6][0]
    folder = put(tmp_path, "a", case)
    put_hessian(folder, {"initial": [1.0], "final": [1.0, 2.0]})
    path = folder / "hessian.json"
    sound = json.loads(path.read_text())
    for spoil in (lambda one: one["states"].update(final=None), lambda one: one.update(states=[1]),
                  lambda one: one.pop("states"), lambda one: one["states"]["final"].pop("mass"),
                  lambda one: one["states"]["final"].update(mass=[]),
                  lambda one: one["states"]["final"].update(loss=[]),
                  lambda one: one["states"]["final"].update(lambda_max=None)):  # fmt: skip
        broken = json.loads(json.dumps(sound))
        spoil(broken)
        path.write_text(json.dumps(broken))
        panels, left_out = landscape_figures.FIGURES[6].read(wanted[6], folders(tmp_path))
        assert not any(panel.found for panel in panels) and len(left_out) == 1 and str(folder) in left_out[0]


def test_verdicts_on_tails_and_paths(wanted: dict[int, list[Case]], tmp_path: Path) -> None:
    rates = sorted(case.physical for case in wanted[14] if case.model != "PINN")
    for name, alphas, seeds, reached, says in (
        ("as paper", (4, 6, 3, 2), 3, True, [True, True, True]), ("turned", (1.5, 1, 3, 7), 3, True, [False] * 3),
        ("one below", (2, 6, 3, 3), 3, True, [False, True, False]),
        ("close", (3.1, 3.0, 3.0, 2.9), 3, True, [None] * 3),
        ("partly", (4, 6, 3, 2), 1, True, [None, None, True]), ("refuted", (4, 2, 3, 2), 1, True, [False, False, True]),
        ("far", (4, 6, 3, 2), 3, False, [None] * 3),
    ):  # fmt: skip
        for case in wanted[14]:
            pinn = case.model == "PINN"
            alpha = alphas[(case.physical == 20.0) if pinn else 2 + (case.physical == rates[-1])]
            for seed in range(seeds if pinn else 1):
                put_steps(put(tmp_path / name, f"{case.letter}{seed}", case, seed), alpha,
                          lr=1.0 if pinn else case.physical, reached=reached)  # fmt: skip
        assert verdicts(14, tmp_path / name, wanted[14]) == says, name
    case = next(case for case in wanted[15] if case.strategy == "lbfgs")
    for name, ends, middle, errors, says in (
        ("valley", (1e-2, 1e-4), 1e-3, (0.9, 0.01), [True, True, True]),
        ("slow", (1e-2, 1e-4), 9.9e-3, (0.9, 0.01), [True, True, True]),  # it only falls
        ("ridge", (1e-2, 1e-4), 1.0, (0.5, 0.4), [True, False, False]),
        ("same", (1e-2, 5e-3), 1.0, (0.01, 0.9), [None, None, False]),
        ("elsewhere", (5.0, 0.4), 1.0, (0.9, 0.01), [None, True, True]),
        ("turned", (1e-4, 1e-2), 1.0, (0.9, 0.01), [False, None, True]),
    ):
        put_paths(put(tmp_path / name, "a", case), ends, middle, errors)
        assert verdicts(15, tmp_path / name, wanted[15]) == says, name
    assert judge(15, tmp_path / "valley", wanted[15], "laptop")[0].holds is None
    t = np.linspace(0, 1, 61)
    assert figure_path.rise(1e-4 + 9.9e-3 * (1 - t) ** 2) == 0.0
    assert figure_path.rise(np.array([1e-2, np.nan, 1e-4])) == math.inf
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
    numbers = ["7", "15"]
    assert figures.main([*numbers, "--results", str(root), "--out", "out", "--dpi", "40"]) == 0
    said = capsys.readouterr().out
    written = {path.name for path in Path("out").iterdir()}
    assert written == {f"figure_{n}{end}" for n in numbers for end in (".png", ".pdf", ".csv", "_checks.csv")}
    assert "FIGURE=7 SCALE=laptop bash " in said and "# 2 of 3 runs missing" in said
    assert "    cannot be told: 2 of 3 runs are missing" in said and "    holds" in said
    assert "  not the paper's cells (scale laptop): " in said and "with OUTDIR=FOLDER into one that is named" in said
    assert said.count("    criterion: ") == 3 + 3
    with Path("out/figure_15_checks.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [row["verdict"] for row in lines] == ["cannot be told", "holds", "holds"]
    assert all(row["criterion"] for row in lines) and [bool(row["why"]) for row in lines] == [True, False, False]
    monkeypatch.setattr(landscape_figures, "EXPERIMENTS", Path("/my own/experiments"))
    found = folders(root)
    for number, count in ((5, 5), (6, 5), (11, 4), (12, 8), (13, 4), (14, 1)):  # frames; two axes a panel in 12
        plan = landscape_figures.plan(number, found, "laptop")
        rows = plan.figure.table(plan.panels)
        assert len(plan.figure.draw(plan.panels).axes) == count and len(rows) >= sum(map(bool, plan.panels[0].found))
        listed = "\n".join(plan.list(named=False))
        if number == 13:
            assert "(a) PINN, N_f = 1000, ρ = 5: 0 of 1 runs with landscape.json and hessian.json" in listed
            assert re.search(r"left out: .*hessian.npz: .", listed) and "OUTDIR" not in listed
            assert "FIGURE=13 SCALE=laptop bash '/my own/experiments/landscapes.sh'   # 1 of 2 runs" in listed
        if number == 11:
            assert "FNO, poisson, Adam: 6 of 16 runs with lambda_max" in listed

    # A fault of one's own is none of the results.
    def fault(*_: object) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr(figures.style, "save", fault)
    with pytest.raises(ValueError, match="a fault"):
        figures.main(["15", "--results", str(root), "--out", "out"])

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
