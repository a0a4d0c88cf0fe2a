#!/usr/bin/env bash
# The first regime map: PINNs on 1D convection u_t + beta u_x = 0, trained with L-BFGS for every speed beta and number of
# collocation points N_f, then drawn: results/quickstart/regime_map.png.
#
#     bash experiments/quickstart.sh
#
# Interrupted and started again, it goes on where it was. Change the grid here or in the environment:
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
BETAS=${BETAS:-5 15 30 50}
N_RES=${N_RES:-50 100 500 1000 2000}
ITERATIONS=${ITERATIONS:-1000}
OUTDIR=${OUTDIR:-$HERE/../results/quickstart}

# shellcheck source=experiments/lib.sh
source "$HERE/lib.sh"
[[ $ITERATIONS =~ ^[1-9][0-9]*$ ]] || die "ITERATIONS must be a positive whole number; got '$ITERATIONS'"
mkdir -p -- "$OUTDIR" || die "OUTDIR: cannot make $OUTDIR"
OUTDIR=$(CDPATH='' cd -- "$OUTDIR" && pwd)
check_numbers BETAS any "$BETAS"

PDE=convection OPT=lbfgs SCALE=laptop SEEDS=0 VALUES=$BETAS N_RES=$N_RES OUTDIR=$OUTDIR \
    EXTRA="--iterations $ITERATIONS" exec bash "$HERE/sweep_pinn.sh" "$@"
