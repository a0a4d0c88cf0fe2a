"""The training strategies, one file each."""

from node.strategies.adam import Adam
from node.strategies.alm import ALM
from node.strategies.batches import NodeStrategy
from node.strategies.curriculum import Curriculum
from node.strategies.lbfgs import LBFGS
from node.strategies.nncg import NNCG, AdamNNCG, NNCGOnly
from node.strategies.sgd import SGD

STRATEGIES: dict[str, type[NodeStrategy]] = {
    s.name: s for s in (Adam, SGD, LBFGS, NNCG, NNCGOnly, AdamNNCG, ALM, Curriculum)}
