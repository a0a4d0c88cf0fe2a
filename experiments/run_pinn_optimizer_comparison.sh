#!/usr/bin/env bash
# One cell of the convection map trained by every optimizer, then a table and comparison.png.
#
#     bash experiments/run_pinn_optimizer_comparison.sh
#     BETA=30 N_RES=10000 bash experiments/run_pinn_optimizer_comparison.sh
#
# Variables (defaults in brackets):
#     BETA     speed of the convection  [10]
#     N_RES    collocation points  [5000]
#     SEED     of the weights  [0]
#     GPU      which GPU, where there is one  [0]
#     OUTDIR   where run folders, logs, table and picture go  [results/pinn_comparison in the repository]
#     BUDGET   iterations: smoke (seconds) | laptop (minutes) | paper (its Table 2; hours without a GPU)  [paper]
#     OPTS     which optimizers  [lbfgs alm nncg cl adam_lbfgs ropinn adam]
#     JOBS     optimizers at a time  [number of GPUs, which is 1 here, else of cores]
#     LAUNCH   local: train here | print: show the commands  [local]
#     EXTRA    more flags of PINN/run_experiment.py, quoted as in a shell
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# An optimizer that fails leaves the others alone. Interrupted and started again, it goes on where it was.
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$HERE/setup.sh"

if (($#)); then
    [[ $1 == -h || $1 == --help ]] || die "settings are environment variables, not arguments (--help); got '$1'"
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 0
fi

BETA=${BETA:-10} N_RES=${N_RES:-5000} SEED=${SEED:-0} GPU=${GPU:-0} BUDGET=${BUDGET:-paper}
OPTS=${OPTS:-lbfgs alm nncg cl adam_lbfgs ropinn adam}
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/pinn_comparison}")

check_launch
check_choice BUDGET "smoke laptop paper" "$BUDGET"
read -ra optimizers <<<"$OPTS"
check_choice OPTS "lbfgs alm nncg cl adam_lbfgs ropinn adam" "${optimizers[@]}"
check_number BETA any "$BETA"
check_number N_RES whole "$N_RES"
check_number SEED whole "$SEED"
check_number GPU whole "$GPU"
declare -a extra=()
split_words extra "${EXTRA:-}"

choose_gpu "$GPU"
if [[ $LAUNCH == print ]]; then
    choose_python || PYTHON=$VENV/bin/python # nothing is installed for a look
else
    use_environment
fi

new_tasks "$OUTDIR/tasks.sh"
for opt in "${optimizers[@]}"; do
    add_task "convection/$opt n_$N_RES" "$PYTHON" "$REPOSITORY/PINN/run_experiment.py" --pde convection \
        --pde_params "{\"beta\": $BETA}" --opt "$opt" --num_res "$N_RES" --initial_seed "$SEED" --budget "$BUDGET" \
        --save_path "$OUTDIR" "${extra[@]}"
done

echo "# convection, beta $BETA, $N_RES collocation points, seed $SEED, budget $BUDGET: ${optimizers[*]}"
echo "# on $DEVICE; results go to $OUTDIR"
code=0
run_tasks || code=$?
if [[ $LAUNCH == local ]] && ((code != 75)); then
    echo
    "$PYTHON" "$HERE/analysis/comparison.py" "$OUTDIR" --system convection --physical "beta=$BETA" --n "$N_RES" \
        --seed "$SEED" || code=$((code ? code : 1))
fi
exit "$code"
