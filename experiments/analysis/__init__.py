"""From finished runs to regime maps: collect, thresholds, boundaries, labels, maps.

Nothing here imports a model. The only input is the run folder, whose `metrics.json` says all that
is needed (see `collect`), so a map can be drawn while a sweep is still running.
"""
