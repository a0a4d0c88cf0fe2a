#!/usr/bin/env bash
# All tests, each module by itself: packages of different modules may share names. Arguments go to pytest.
#
#     bash experiments/test.sh
#     bash experiments/test.sh -x -k lbfgs
#
# Files of a module run side by side, JOBS at a time [number of cores], each on one thread.
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$HERE/setup.sh"
JOBS=${JOBS:-$(nproc)}
[[ $JOBS =~ ^[1-9][0-9]{0,3}$ ]] || setup_error "JOBS must be a whole number from 1 to 9999; got '$JOBS'"
use_environment pytest pytest-xdist pyhessian curvlinops-for-pytorch
((JOBS == 1)) || export OMP_NUM_THREADS=1

failed=()
for module in PINN PINO FNO NeuralODE CNN experiments; do
    [[ -d $REPOSITORY/$module/tests ]] || continue
    echo "==== $module"
    code=0
    "$PYTHON" -m pytest -rf --rootdir "$REPOSITORY" -c "$REPOSITORY/pyproject.toml" \
        -n "$JOBS" --dist loadfile "$REPOSITORY/$module/tests" "$@" || code=$?
    # 5: no test matches the arguments, which may be meant for another module.
    ((code == 0 || code == 5 && $#)) || failed+=("$module")
    ((code != 2)) || break # interrupted
done
if ((${#failed[@]})); then
    echo "tests failed in: ${failed[*]}"
    exit 1
fi
echo "all tests passed"
