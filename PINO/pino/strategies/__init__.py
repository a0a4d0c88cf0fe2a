"""The training strategies, one file each."""

from pino.strategies.adam import Adam
from pino.strategies.alm import ALM, ALMData
from pino.strategies.batches import DarcyStrategy
from pino.strategies.curriculum import Curriculum
from pino.strategies.lbfgs import LBFGS, AdamLBFGS
from pino.strategies.nncg import NNCG

STRATEGIES: dict[str, type[DarcyStrategy]] = {
    s.name: s for s in (Adam, LBFGS, AdamLBFGS, ALM, ALMData, NNCG, Curriculum)}
