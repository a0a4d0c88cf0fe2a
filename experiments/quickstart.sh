#!/usr/bin/env bash
# The first regime map: PINNs on 1D convection u_t + beta u_x = 0, trained with L-BFGS for every speed beta and number of
# collocation points N_f, then drawn as regime_map.png, with the table of regimes on the terminal.
#
#     bash experiments/quickstart.sh
#
# Interrupted and started again, it goes on where it was. Change the grid here or in the environment:
set -euo pipefail

BETAS=${BETAS:-5 10 20 30 40 50}
N_RES=${N_RES:-50 100 300 1000 3000}
ITERATIONS=${ITERATIONS:-1000}

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
OUTDIR=${OUTDIR:-${HERE%/*}/results/quickstart}
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"
check_numbers BETAS any "$BETAS"
check_number ITERATIONS whole "$ITERATIONS"

echo "# training PINNs on convection with L-BFGS, $ITERATIONS iterations each: beta $BETAS; N_f $N_RES"
LAUNCH=${LAUNCH:-local} PDE=convection OPT=lbfgs SCALE=laptop SEEDS=0 VALUES=$BETAS N_RES=$N_RES OUTDIR=$OUTDIR \
    THRESHOLDS=${THRESHOLDS:-table5} EXTRA="--iterations $ITERATIONS ${EXTRA:-}" exec bash "$HERE/sweep_pinn.sh" "$@"
