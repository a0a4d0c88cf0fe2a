"""Curriculum: the contrast r moves from stage to stage, and each stage starts from the weights of the last.

    r_k = start + k * step  until the target, which is always the last stage

The sign fields stay: a_k = a_low (1 + (r_k - 1) [z >= 0]). Solutions of the stages are made before training, one data
file each (for benchmark files: where a stage begins). Targets on the way of one another share a chain: the run for
r = 4 is the chain of r = 10 after its stage at 4. `ramp` f moves the right-hand side instead, as the published code
does; its solution is f u_1, and both terms of the loss are relative.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pino.files import UsageError
from pino.record import RunKey
from pino.strategies.base import Row, Stage
from pino.strategies.batches import DarcyStrategy
from pino.strategies.options import AdamOptions

MOST_STAGES = 10_000  # more is a slip of the pen


@dataclass
class Options:
    """Table 3: r + 0.1 every 10,000 iterations, learning rate 1e-3, constant.

    ramp: what moves, r or f. start, step: in units of it. target: where f ends (that of r is the run's own).
    iterations: a stage. tail: more of them at the target.
    """

    ramp: str = "r"
    start: float = 1.0
    step: float = 0.1
    target: float = 1.0
    iterations: int = 10_000
    tail: int = 0
    adam: AdamOptions = field(default_factory=lambda: AdamOptions(decay=1.0))

    def values(self, contrast: float) -> list[float]:
        """r (or f) of the stages up to the target."""
        end = contrast if self.ramp == "r" else self.target
        count = max(math.ceil(abs(end - self.start) / self.step - 1e-9), 0)
        if count > MOST_STAGES:
            raise UsageError(f"--cl_delta_{self.ramp}: steps of {self.step:g} make {count} stages up to {end:g}, at "
                             f"most {MOST_STAGES} are allowed")
        on_the_way = [self.start + math.copysign(k * self.step, end - self.start) for k in range(count)]
        return [*(round(value, 9) for value in on_the_way), end]  # 8, not 8.000000000000002


class Curriculum(DarcyStrategy):
    """One stage a value, each with a fresh Adam."""

    name, Options, main = "cl", Options, "adam"
    last_stage_only = ("test_error",)  # stages between have no test samples of their own
    budgets = {"smoke": {"step": 3.0, "iterations": 5}, "laptop": {"step": 0.5, "iterations": 200}}

    def make_stages(self, options: Options, targets: Sequence[float]) -> list[Stage]:
        """The chain of the row's target."""
        self.chain = options.values(targets[0])
        lengths = [options.iterations] * len(self.chain)
        lengths[-1] += options.tail
        return [self.adam(f"{options.ramp}={value:g}", options.adam, length)
                for value, length in zip(self.chain, lengths, strict=True)]

    @classmethod
    def plan(cls, options: Options, keys: Sequence[RunKey]) -> list[Row]:
        """Targets of one seed and n that lie on the chain of another become stops of its row."""
        chains = [options.values(key.physical_value) for key in keys]
        rows: list[Row] = []
        for k in sorted(range(len(keys)), key=lambda k: -len(chains[k])):
            key = keys[k]
            for row in rows if options.ramp == "r" and not options.tail else ():
                chain = chains[row.runs[0][0]]
                if (row.key.seed, row.key.data_value) == (key.seed, key.data_value) and key.physical_value in chain:
                    row.runs.append((k, chain.index(key.physical_value)))
                    break
            else:
                rows.append(Row(key, [(k, len(chains[k]) - 1)]))
        return rows

    @property
    def trace_every(self) -> int:
        """Two hundred lines a stage: the paper's 91 stages have a million updates."""
        return max(1, self.options.iterations // 200)

    def enter(self, stage: int) -> None:
        """The samples of this stage's value."""
        value, contrast = self.chain[stage], self.rows[0].physical
        if self.options.ramp == "f":
            found = self.samples(contrast, value, contrast)
        else:  # the next target lends its test samples
            target = min(end for _, end in self.rows[0].runs if end >= stage)
            found = self.samples(value, None, self.chain[target])
        self.objective.set_samples(*found)
        super().enter(stage)

    def columns(self) -> dict[str, Sequence[float]]:
        """r or f of the stage."""
        return {f"stage_{self.options.ramp}": [self.chain[self.stage]]}
