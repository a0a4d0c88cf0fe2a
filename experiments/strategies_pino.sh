# shellcheck shell=bash
# Strategies of PINOs -> what asks PINO/scripts/darcy_sweep.py for them. A strategy that is added here can be an OPT of
# sweep_pino.sh and one of OPTS of run_pino_optimizer_comparison.sh. Source this file.

# shellcheck disable=SC2034  # read by the scripts that source this file
declare -A PINO_FLAGS=(
    [adam]="--optimizer adam"
    [lbfgs]="--optimizer lbfgs"
    [adam_lbfgs]="--optimizer lbfgs --warm_start"
    [alm]="--optimizer alm"
    [alm_data]="--optimizer alm --alm_cons_item data"
    [nncg]="--optimizer nncg"
    [cl]="--optimizer cl"
)
# shellcheck disable=SC2034
PINO_STRATEGIES="adam lbfgs adam_lbfgs alm alm_data nncg cl"
# Flags that the scripts give themselves.
# shellcheck disable=SC2034
PINO_GIVEN="--optimizer --warm-start --alm-cons-item --r --n-samples --seed --seeds --outdir --data-dir --data-rows \
    --budget --preset --gpu"
