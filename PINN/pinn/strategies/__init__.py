"""The training strategies, one file each; `STRATEGIES` is what `--opt` offers."""

from pinn.strategies.adam import Adam
from pinn.strategies.adam_lbfgs import AdamLBFGS
from pinn.strategies.alm import ALM
from pinn.strategies.base import Strategy
from pinn.strategies.curriculum import Curriculum
from pinn.strategies.lbfgs import LBFGS
from pinn.strategies.nncg import NNCG
from pinn.strategies.ropinn import RoPINN

STRATEGIES: dict[str, type[Strategy]] = {s.name: s for s in (Adam, LBFGS, AdamLBFGS, NNCG, ALM, Curriculum, RoPINN)}
