"""What the paper's figures of regimes show: a map (model, system, strategy) a panel, and the sweep that fills it.

    FIGURES[3].panels[2] -> Panel("c", "PINN", "convection", "alm", "PINN, ALM")

Figures 1, 2, 3, 8, 9 and 10 are regime maps, training loss above test error; Figure 4 is the relative improvement of
one strategy over another. Order and titles are those of the captions.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analysis import labels


@dataclass(frozen=True)
class Panel:
    """One regime map of a figure: its letter, what it shows, and its title."""

    letter: str
    model: str
    system: str
    strategy: str
    title: str

    @property
    def name(self) -> str:
        """What the panel shows, in words: "PINN, 1D Convection, L-BFGS"."""
        return f"{self.model}, {SYSTEM_TITLES[self.system]}, {labels.STRATEGIES.get(self.strategy, self.strategy)}"


@dataclass(frozen=True)
class FigureSpec:
    """One figure: its panels, `columns` of them side by side, and whether it compares strategies of one system."""

    number: int
    caption: str
    columns: int
    panels: tuple[Panel, ...]
    compares: bool = False


# Model -> the sweep script below experiments/, the variables that choose its runs, and its results folder less _SCALE.
SWEEPS: Mapping[str, tuple[str, str, str]] = {
    "PINN": ("sweep_pinn.sh", "PDE={system} OPT={strategy}", "pinn"),
    "NODE": ("sweep_node.sh", "MODEL=node OPT={strategy}", "node"),
    "PINODE": ("sweep_node.sh", "MODEL=pinode OPT={strategy}", "node"),
    "PINO": ("sweep_pino.sh", "OPT={strategy}", "pino"),
    "FNO": ("sweep_fno.sh", "SYSTEM={system} OPT={strategy}", "fno"),
}
RESULTS = tuple(dict.fromkeys(folder for _, _, folder in SWEEPS.values()))

SYSTEM_TITLES = {
    "convection": "1D Convection", "reaction": "1D Reaction", "wave": "1D Wave",
    "reaction_diffusion": "1D Reaction-Diffusion", "poisson": "2D Poisson", "advdiff": "2D Advection-Diffusion",
    "darcy": "Darcy Flow", "pendulum": "Pendulum",
}  # fmt: skip
# Where sweeps name their axes before there are runs to read them from: (physical, data) of systems.
AXES = {
    "convection": ("beta", "n"), "reaction": ("rho", "n"), "wave": ("c", "n"), "reaction_diffusion": ("rho", "n"),
    "poisson": ("k", "n"), "advdiff": ("psi", "n"), "darcy": ("r", "n"), "pendulum": ("inv_b", "n"),
}  # fmt: skip
COLUMNS = ("adam", "lbfgs", "alm", "nncg", "cl")


def _panels(maps: Iterable[tuple[str, str, str, str]]) -> tuple[Panel, ...]:
    return tuple(Panel(letter, *one) for letter, one in zip(string.ascii_lowercase, maps))


def _systems(model: str, strategy: str, systems: Iterable[str]) -> tuple[Panel, ...]:
    return _panels((model, system, strategy, SYSTEM_TITLES[system]) for system in systems)


def _strategies(model: str, system: str, strategies: Iterable[str]) -> list[tuple[str, str, str, str]]:
    return [(model, system, name, f"{model}, {labels.STRATEGIES.get(name, name)}") for name in strategies]


def comparing(models: Iterable[str] = (), strategies: Sequence[str] = ()) -> FigureSpec:
    """Return Figure 3 for some of its models, or with other strategies as columns; empty: as in the paper."""
    paper = FIGURES[3]
    rows = [paper.panels[k : k + paper.columns] for k in range(0, len(paper.panels), paper.columns)]
    rows = [row for row in rows if not models or row[0].model in models]
    panels = [
        panel for row in rows
        for panel in _strategies(row[0].model, row[0].system, strategies or [one.strategy for one in row])
    ]  # fmt: skip
    return replace(paper, columns=len(strategies) or paper.columns, panels=_panels(panels))


PDES = ("convection", "reaction", "wave", "reaction_diffusion")
FIGURES: Mapping[int, FigureSpec] = {
    figure.number: figure
    for figure in (
        FigureSpec(1, "Regime maps across model families", 5, _panels([
            ("PINN", "convection", "lbfgs", "PINN"), ("FNO", "advdiff", "adam", "FNO"),
            ("PINO", "darcy", "lbfgs", "PINO"), ("NODE", "pendulum", "adam", "NODE"),
            ("PINODE", "pendulum", "lbfgs", "PINODE"),
        ])),
        FigureSpec(2, "Regime maps of PINNs trained with L-BFGS", 4, _systems("PINN", "lbfgs", PDES)),
        FigureSpec(3, "Regime maps of physics-constrained models under varying strategies", 5, _panels([
            *_strategies("PINN", "convection", ("ropinn", "lbfgs", "alm", "nncg", "cl")),
            *_strategies("PINO", "darcy", COLUMNS),
            *_strategies("PINODE", "pendulum", COLUMNS),
        ]), compares=True),
        FigureSpec(4, "Relative improvement of NNCG over L-BFGS", 2, (
            # A panel is a pair of strategies here; both sweeps are needed.
            Panel("", "PINN", "convection", "lbfgs", "1D Convection"),
            Panel("", "PINN", "convection", "nncg", "1D Convection"),
            Panel("", "PINN", "reaction", "lbfgs", "1D Reaction"),
            Panel("", "PINN", "reaction", "nncg", "1D Reaction"),
        )),
        FigureSpec(8, "Regime maps of PINNs trained with ALM", 4, _systems("PINN", "alm", PDES)),
        FigureSpec(9, "Regime maps of PINNs trained with RoPINN", 4, _systems("PINN", "ropinn", PDES)),
        FigureSpec(10, "Regime maps of FNOs trained with Adam", 2, _systems("FNO", "adam", ("poisson", "advdiff"))),
    )
}  # fmt: skip
