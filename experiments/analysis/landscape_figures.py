"""The paper's figures of landscapes: what each is read from, how it is drawn, and what it should show.

    figure = FIGURES[6]
    panels, left_out = figure.read(cases, runs)
    figure.draw(panels), figure.table(panels), figure.checks(panels)

Runs come with their folders, in which diagnose.py and training left what a figure is drawn from.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis import (
    diagnoses,
    figure_density,
    figure_landscape,
    figure_path,
    figure_sharpening,
    figure_sharpness_map,
    figure_tables,
    figure_tails,
    style,
)
from analysis.checks import Check, format_checks
from analysis.checks import rows as check_rows
from analysis.collect import Run
from analysis.diagnoses import SCRIPT, Case, Panel, run_of
from analysis.expected import DESTINATION, EXPERIMENTS, shortest

Folders = Sequence[tuple[Run, Path]]


@dataclass(frozen=True)
class LandscapeFigure:
    """One figure: `needs` names what a run must have; `select` chooses runs, `extend` cells, for whole maps."""

    number: int
    caption: str
    needs: str
    reader: Callable[[Run, Path], Any]
    draw: Callable[[Sequence[Panel[Any]]], Figure]
    table: Callable[[Sequence[Panel[Any]]], list[dict[str, Any]]]
    checks: Callable[[Sequence[Panel[Any]]], list[Check]]
    select: Callable[[Folders], Folders] = list
    extend: Callable[[Folders, Sequence[Case]], list[Case]] = lambda runs, cases: list(cases)

    def read(self, cases: Sequence[Case], runs: Folders) -> tuple[list[Panel[Any]], list[str]]:
        """Return the panels and what could not be read, see `diagnoses.read`."""
        runs = self.select(runs)
        return diagnoses.read(self.extend(runs, cases), runs, self.reader)


# What figures are read from, and how they are read and drawn.
_HESSIAN = "hessian.json", figure_density.read, figure_density.draw, figure_density.table
_SURFACE = "landscape.json", figure_landscape.read, figure_landscape.draw, figure_landscape.table
_BOTH = ("landscape.json and hessian.json", figure_landscape.read_both, figure_landscape.draw_both,
         figure_landscape.table_both)  # fmt: skip
_HISTORY = "lambda_max in history.csv", figure_sharpening.read, figure_sharpening.draw, figure_sharpening.table
_MAP = "lambda_max", figure_sharpness_map.read, figure_sharpness_map.draw, figure_sharpness_map.table
_STEPS = "steps.json", figure_tails.read, figure_tails.draw, figure_tails.table
_PATH = "connectivity_alm-*.json", figure_path.read, figure_path.draw, figure_path.table

FIGURES: Mapping[int, LandscapeFigure] = {
    figure.number: figure
    for figure in (
        LandscapeFigure(5, "Loss landscapes of PINN, FNO and ResNet", *_SURFACE, figure_landscape.checks),
        LandscapeFigure(6, "Hessian eigenspectra of PINN, FNO and ResNet", *_HESSIAN,
                        figure_density.checks_case_studies),
        LandscapeFigure(7, "Sharpening of PINNs on 1D convection", *_HISTORY, figure_sharpening.checks_dynamics),
        LandscapeFigure(11, "Maps of lambda_max and training loss", *_MAP, figure_sharpness_map.checks,
                        figure_sharpness_map.choose, figure_sharpness_map.cases_of),
        LandscapeFigure(12, "Sharpening of PINNs over data and beta", *_HISTORY, figure_sharpening.checks_regimes),
        LandscapeFigure(13, "Landscapes and eigenspectra of PINNs on 1D reaction-diffusion", *_BOTH,
                        figure_landscape.checks_both),
        LandscapeFigure(14, "Tail exponents of step lengths", *_STEPS, figure_tails.checks),
        LandscapeFigure(15, "Paths from L-BFGS to ALM on 1D convection", *_PATH, figure_path.checks,
                        extend=figure_path.first_ends),
        LandscapeFigure(16, "Hessian eigenspectra of regimes of PINNs, and of ResNet", *_HESSIAN,
                        figure_density.checks_regimes),
    )
}  # fmt: skip
# Results folders less _SCALE, in which runs with such files are looked for.
RESULTS = ("landscapes", "pinn", "fno", "cnn")
MOST = 8  # panels that are listed one by one


@dataclass(frozen=True)
class Plan:
    """One figure with its panels, what could not be read, and why it is not known what should be there ("")."""

    figure: LandscapeFigure
    panels: list[Panel[Any]]
    left_out: list[str]
    problem: str
    scale: str

    @property
    def drawable(self) -> bool:
        """Whether there is a run to draw."""
        return any(panel.found for panel in self.panels)

    def list(self, named: bool) -> list[str]:
        """Return the lines on what is there and missing, and the command that makes what is missing.

        Args:
            named: results folders were named: what is made elsewhere is not found there.
        """
        lines = [f"Figure {self.figure.number}: {self.figure.caption}"]
        if self.problem:
            lines.append(f"  expected: not known, {self.problem}")
        groups: dict[str, list[Panel[Any]]] = {}
        for panel in self.panels:
            name = f"({panel.case.letter}) {panel.case.name}" if len(self.panels) <= MOST else panel.case.map_name
            groups.setdefault(name, []).append(panel)
        missing = total = 0
        for name, panels in groups.items():
            wanted = sum(len(panel.case.seeds) for panel in panels)
            there = sum(len({run_of(one).seed for one in panel.found} & {*panel.case.seeds}) for panel in panels)
            beyond = sum(len(panel.found) for panel in panels) - there
            missing, total = missing + wanted - there, total + wanted
            lines.append(f"  {name}: {there} of {wanted} runs with {self.figure.needs}"
                         + (f", and {beyond} more" if beyond else ""))  # fmt: skip
        lines += [f"  {line}" for line in self.left_out]
        if missing:
            call = f"FIGURE={self.figure.number} SCALE={self.scale} bash {shlex.quote(shortest(EXPERIMENTS / SCRIPT))}"
            lines += ["  the missing runs are made by", f"    {call}   # {missing} of {total} runs missing"]
            lines += [f"  {DESTINATION}"] * named
        return lines

    def write(self, out: Path, dpi: float) -> list[Path]:
        """Draw the figure, write its numbers and the paper's claims; return the paths."""
        base = out / f"figure_{self.figure.number}"
        written = style.save(self.figure.draw(self.panels), base, dpi)
        for rows, name in ((self.figure.table(self.panels), ""), (check_rows(self.checks()), "_checks")):
            written.append(base.with_name(f"{base.name}{name}.csv"))
            figure_tables.write(rows, written[-1])
        return written

    def checks(self) -> list[Check]:
        """Return what the paper says beside what the runs show; how large a number is tells nothing at other scales."""
        return [
            replace(check, holds=None, why=f"the size of a number at scale {self.scale} is not the paper's")
            if check.claim.absolute and check.holds is not None and self.scale != "paper" else check
            for check in self.figure.checks(self.panels)
        ]  # fmt: skip

    def says(self) -> list[str]:
        """Return the checks as lines."""
        elsewhere = (f"  not the paper's cells (scale {self.scale}): fewer data, smaller networks or shorter training; "
                     "sizes of numbers are not compared")  # fmt: skip
        return [elsewhere] * (self.scale != "paper") + format_checks(self.checks())


def plan(number: int, runs: Folders, scale: str) -> Plan:
    """Return a figure arranged from the runs that there are, with what `landscapes.sh` would make of it."""
    cases, problem = diagnoses.ask(number, scale)
    panels, left_out = FIGURES[number].read(cases, runs)
    return Plan(FIGURES[number], panels, left_out, problem, scale)
