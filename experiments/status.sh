#!/usr/bin/env bash
# How a sweep stands: runs done, running, queued, failed and missing by cell of the maps, the last lines of the logs of
# failed tasks, and the command that does what is left.
#
#     bash experiments/status.sh results/pinn_paper
#
# Exit code: 0 all done, 75 not yet, but the rest runs or waits in the queue, 1 not all done, 2 bad input.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

# Any recent Python will do: it needs no package.
python=$VENV/bin/python
for candidate in "${PYTHON:-}" "${VIRTUAL_ENV:-.}/bin/python" "${CONDA_PREFIX:-.}/bin/python"; do
    if [[ -n $candidate ]] && command -v -- "$candidate" >/dev/null && is_recent "$candidate"; then
        python=$candidate
        break
    fi
done
is_recent "$python" || python=$(PYTHON='' base_python)
exec "$python" "$REPOSITORY/experiments/analysis/status.py" "$@"
