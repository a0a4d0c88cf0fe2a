#!/usr/bin/env bash
# One cell of the PINODE map trained by every optimizer, then a table and comparison.png.
#
#     bash experiments/run_node_optimizer_comparison.sh
#     INV_B=4 HORIZON=40 bash experiments/run_node_optimizer_comparison.sh
#
# Variables (defaults in brackets):
#     INV_B    inverse damping 1/b of the pendulum  [8]
#     HORIZON  training horizon T; T / 0.05 samples  [20]
#     SEED     of the weights  [0]
#     GPU      which GPU, where there is one  [0]
#     OUTDIR   where run folders, logs, table and picture go  [results/node_comparison in the repository]
#     BUDGET   iterations: smoke (seconds) | laptop (a minute) | paper (its Table 4; two minutes)  [paper]
#     OPTS     which optimizers, also region_lbfgs  [adam lbfgs alm alm_data nncg cl]
#     LOSS_SCALE   what is minimised: unit: loss / dt^2, so that tolerances mean something | paper: the loss  [unit]
#     JOBS     optimizers at a time  [number of GPUs, which is 1 here, else of cores]
#     LAUNCH   local: train here | print: show the commands  [local]
#     EXTRA    more flags of NeuralODE/run_sweep.py, quoted as in a shell
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# An optimizer that fails leaves the others alone. Interrupted and started again, it goes on where it was.
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"
# shellcheck source-path=SCRIPTDIR source=strategies_node.sh
source "$HERE/strategies_node.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

INV_B=${INV_B:-8} HORIZON=${HORIZON:-20} SEED=${SEED:-0} GPU=${GPU:-0} BUDGET=${BUDGET:-paper}
OPTS=${OPTS:-adam lbfgs alm alm_data nncg cl} LOSS_SCALE=${LOSS_SCALE:-unit}
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/node_comparison}")

declare -A LOG_EVERY=([smoke]=5 [laptop]=20 [paper]=50) # finer than that of sweeps, for the curves

check_launch local "local print"
check_choice BUDGET "smoke laptop paper" "$BUDGET"
check_choice LOSS_SCALE "unit paper" "$LOSS_SCALE"
read -ra optimizers <<<"$OPTS"
check_choice OPTS "$(node_strategies pinode)" "${optimizers[@]}"
check_number INV_B any "$INV_B"
check_number HORIZON any "$HORIZON"
check_number SEED whole "$SEED"
check_number GPU whole "$GPU"
declare -a extra=()
split_words extra "${EXTRA:-}"
# The table finds the cell by its number of samples.
[[ " ${extra[*]}" != *" --fixed"[-_]dt* ]] || die "EXTRA: --fixed-dt goes with sweep_node.sh; here dt is 0.05"
n=$(node_samples 0.05 "$HORIZON")

choose_gpu "$GPU"
get_python

new_tasks "$OUTDIR"
cell="inv_b_$(folder_values "$INV_B")/n_$n/seed_$(folder_values "$SEED")"
for opt in "${optimizers[@]}"; do
    read -ra flags <<<"${NODE_FLAGS[pinode $opt]}"
    add_task "PINODE/$opt" "pinode_$opt/pinode/pendulum/$opt/$cell" "$PYTHON" "$REPOSITORY/NeuralODE/run_sweep.py" \
        "${flags[@]}" --inv-b-values "$INV_B" --horizon-values "$HORIZON" --seeds "$SEED" --loss-scale "$LOSS_SCALE" \
        --budget "$BUDGET" --log-every "${LOG_EVERY[$BUDGET]}" --out-dir "$OUTDIR/pinode_$opt" "${extra[@]}"
done
then_run "$PYTHON" "$HERE/analysis/comparison.py" "$OUTDIR" --model PINODE --system pendulum \
    --physical "inv_b=$INV_B" --n "$n" --seed "$SEED"

echo "# PINODE, 1/b $INV_B, horizon $HORIZON, seed $SEED, budget $BUDGET: ${optimizers[*]}"
echo "# on $DEVICE; results go to $OUTDIR"
run_tasks
