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

environment_only "${BASH_SOURCE[0]}" "$@"

BETA=${BETA:-10} N_RES=${N_RES:-5000} SEED=${SEED:-0} GPU=${GPU:-0} BUDGET=${BUDGET:-paper}
OPTS=${OPTS:-lbfgs alm nncg cl adam_lbfgs ropinn adam}
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/pinn_comparison}")

check_launch local "local print"
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
get_python

new_tasks "$OUTDIR"
beta=$(folder_values "$BETA") # as JSON writes numbers, which has no .5
cell="beta_$beta/n_$(folder_values "$N_RES")/seed_$(folder_values "$SEED")"
for opt in "${optimizers[@]}"; do
    add_task "convection/$opt n_$N_RES" "convection/$opt/$cell" "$PYTHON" "$REPOSITORY/PINN/run_experiment.py" \
        --pde convection --pde_params "{\"beta\": $beta}" --opt "$opt" --num_res "$N_RES" --initial_seed "$SEED" \
        --budget "$BUDGET" --save_path "$OUTDIR" "${extra[@]}"
done
then_run "$PYTHON" "$HERE/analysis/comparison.py" "$OUTDIR" --system convection --physical "beta=$BETA" --n "$N_RES" \
    --seed "$SEED"

echo "# convection, beta $BETA, $N_RES collocation points, seed $SEED, budget $BUDGET: ${optimizers[*]}"
echo "# on $DEVICE; results go to $OUTDIR"
run_tasks
