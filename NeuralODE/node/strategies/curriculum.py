"""Curriculum: 1/b (or b) moves from stage to stage, and each stage starts from the weights of the last.

    value_k = start + k * step,  up or down,  until the target, which is always the last stage.

Training and test data are those of the stage's value. Targets on the way of one another share a chain: with steps of
0.25 from 0.25 the run for 1/b = 8 is the chain of 1/b = 15 after its stage at 8.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from node.files import UsageError
from node.record import RunKey
from node.strategies.base import Row, Stage
from node.strategies.batches import NodeStrategy, Region
from node.strategies.options import FirstOrderOptions, LBFGSOptions

if TYPE_CHECKING:
    from node.strategies.alm import ALM

MOST_STAGES = 10_000  # more is a slip of the pen


@dataclass
class Schedule:
    """Table 4's 60 stages at "speed 0.25": 1/b = 0.25, 0.5, ..., 15.

    space: what moves evenly, inv_b or b. start, step: in units of it. calls: of L-BFGS in each stage, or epochs.
    """

    space: str = "inv_b"
    start: float = 0.25
    step: float = 0.25
    calls: int = 1

    def values(self, target: float) -> list[float]:
        """1/b of the stages up to the target 1/b."""
        end = target if self.space == "inv_b" else 1 / target
        count = max(math.ceil(abs(end - self.start) / self.step - 1e-9), 0)
        if count > MOST_STAGES:
            flag = "--cl-inv-delta" if self.space == "inv_b" else "--cl-delta-coeff"
            raise UsageError(f"{flag}: steps of {self.step:g} make {count} stages up to {end:g}, at most "
                             f"{MOST_STAGES} are allowed")
        on_the_way = [self.start + math.copysign(k * self.step, end - self.start) for k in range(count)]
        return [value if self.space == "inv_b" else 1 / value for value in on_the_way] + [target]


def _inner() -> LBFGSOptions:
    return LBFGSOptions(max_iter=500)


@dataclass
class Options:
    """Table 4: 500 iterations a stage. inner: lbfgs, adam or sgd."""

    schedule: Schedule = field(default_factory=Schedule)
    inner: str = "lbfgs"
    first_order: FirstOrderOptions = field(default_factory=FirstOrderOptions)
    lbfgs: LBFGSOptions = field(default_factory=_inner)
    region: Region | None = None


class Curriculum(NodeStrategy):
    """One stage a value, each with a fresh optimizer."""

    name, Options = "cl", Options
    budgets = {"smoke": {"lbfgs_max_iter": 20}, "laptop": {"lbfgs_max_iter": 100}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """As many as the longest chain has; shorter ones are done before."""
        self.chains = [options.schedule.values(target) for target in targets]
        return stages(self, self.chains, options.schedule.calls)

    @classmethod
    def plan(cls, options: Options, keys: Sequence[RunKey]) -> list[Row]:
        """Targets of one seed and horizon that lie on the chain of another become stops of its row."""
        chains = [options.schedule.values(key.physical_value) for key in keys]
        rows: list[Row] = []
        for k in sorted(range(len(keys)), key=lambda k: -len(chains[k])):
            key = keys[k]
            for row in rows:
                shared = (row.key.seed, row.key.data_value) == (key.seed, key.data_value)
                chain = chains[row.runs[0][0]] if shared else []
                stop = next((i for i, v in enumerate(chain) if math.isclose(v, key.physical_value, rel_tol=1e-9)), None)
                if stop is not None:
                    row.runs.append((k, stop))
                    break
            else:
                rows.append(Row(key, [(k, len(chains[k]) - 1)]))
        return sorted(rows, key=lambda row: row.key.data_value)

    @classmethod
    def set_epochs(cls, options: Options, epochs: int) -> None:
        """Epochs of every stage: calls of L-BFGS, or walks through the mini-batches."""
        options.schedule.calls = epochs

    def solver(self, name: str, calls: int, take_part: Sequence[bool] | None = None) -> Stage:
        """A stage of the inner optimizer."""
        if self.options.inner == "lbfgs":
            return self.lbfgs(name, self.options.lbfgs, calls, take_part)
        return self.first_order(name, self.options.inner, self.options.first_order, calls, take_part)

    def enter(self, stage: int) -> None:
        """The data of this stage's value; rows that are through keep their own."""
        super().enter(stage)
        enter(self, self.chains, stage)

    def columns(self) -> dict[str, Sequence[float]]:
        """1/b of the stage."""
        return {"physical_value": self.objective.inv_b}


def stages(strategy: "Curriculum | ALM", chains: Sequence[Sequence[float]], calls: int) -> list[Stage]:
    """One stage a value of the longest chain; shorter chains take no part in the later ones."""
    longest = max(chains, key=len)
    return [strategy.solver(f"1/b={value:g}", calls, [k < len(chain) for chain in chains])
            for k, value in enumerate(longest)]


def enter(strategy: "Curriculum | ALM", chains: Sequence[Sequence[float]], stage: int) -> None:
    """Put the data of this stage, or of the target after the last, into the objective."""
    values = [chain[min(stage, len(chain) - 1)] for chain in chains]
    if values != strategy.objective.inv_b:
        strategy.objective.set_physical(values)
