#!/usr/bin/env bash
# Regime maps of neural ODEs on the damped pendulum: every 1/b x training horizon x seed, into run folders, then the maps.
#
#     bash experiments/sweep_node.sh
#     MODEL=all OPT=all SCALE=paper bash experiments/sweep_node.sh
#     OPT="lbfgs alm_data" INV_B="1 4 16" HORIZONS="2 10" SEEDS="0 1 2" EXTRA="--integrator rk4" LAUNCH=print ...
#
# Variables (defaults in brackets):
#     MODEL    node | pinode (with the equation as a penalty or constraint) | all  [pinode]
#     OPT      pinode: adam | lbfgs | alm | alm_data | nncg | cl | region_lbfgs; node: adam | lbfgs | sphere_adam;
#              several of them, or all: those that the paper has a map of, for each model  [lbfgs]
#     SCALE    smoke: 2 x 2, seconds | laptop: 4 x 5, seconds a map | paper: its grid, 3 seeds, minutes a map (alm and
#              alm_data the longest)  [laptop]
#     LAUNCH   slurm: submit to SLURM | local: train here | print: show the commands | auto: slurm where it answers,
#              else local  [auto]
#     JOBS     tasks at a time, with local  [number of GPUs, else of cores]
#     MAX_PARALLEL   tasks at a time, with slurm  [16]
#     GRES, CPUS, MEM, TIME   of a task, with slurm; none leaves one out  [gpu:1, 8, 32G, 4:00:00; sbatch's SBATCH_*
#              variables stand in for them, and are the place for account, partition, constraint ...]
#     OUTDIR   where run folders, logs and maps go  [results/node_SCALE in the repository]
#     INV_B, HORIZONS, SEEDS   the grid, instead of that of SCALE; a horizon T holds T / 0.05 samples
#     LOSS_SCALE   what is minimised: unit: loss / dt^2, so that tolerances mean something | paper: the loss  [unit]
#     THRESHOLDS   of the maps: percentile | table5 | common (one pair a system) | T_TRAIN,T_TEST  [percentile]
#     EXTRA    more flags of NeuralODE/run_sweep.py, quoted as in a shell
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# One task is one map: all its cells and seeds side by side, in OUTDIR/MODEL_STRATEGY, with the nine matrices of them.
# Interrupted and started again, the sweep goes on where it was and does only what is missing. How it stands:
# bash experiments/status.sh OUTDIR
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"
# shellcheck source-path=SCRIPTDIR source=strategies_node.sh
source "$HERE/strategies_node.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

MODEL=${MODEL:-pinode} OPT=${OPT:-lbfgs} SCALE=${SCALE:-laptop} THRESHOLDS=${THRESHOLDS:-percentile}
LOSS_SCALE=${LOSS_SCALE:-unit}

# The maps of the paper (its Table 5), those that take longest first, so that the tasks end together.
declare -A MAPS=([pinode]="nncg cl alm adam lbfgs" [node]="adam")
declare -A DAMPINGS=([smoke]="1 8" [laptop]="1 4 8 15" [paper]="1 2 4 6 8 10 12 15")
declare -A TIMES=([smoke]="1 5" [laptop]="0.5 2 5 10 20" [paper]="0.5 1 2 5 8 10 12 15 20")
declare -A REPEATS=([smoke]="0" [laptop]="0" [paper]="0 1 2")

check_launch auto
check_choice SCALE "smoke laptop paper" "$SCALE"
check_choice LOSS_SCALE "unit paper" "$LOSS_SCALE"
check_thresholds
check_choice MODEL "node pinode all" "$MODEL"
read -ra models <<<"${MODEL/all/pinode node}"
read -ra strategies <<<"$OPT"
[[ ${#strategies[@]} == 1 || " ${strategies[*]} " != *" all "* ]] || die "OPT: all stands alone; got '$OPT'"
for model in "${models[@]}"; do
    check_choice "OPT of MODEL=$model" "$(node_strategies "$model") all" "${strategies[@]}"
    for strategy in "${strategies[@]}"; do
        [[ $THRESHOLDS != table5 || " ${MAPS[$model]} alm_data all " == *" $strategy "* ]] ||
            die "THRESHOLDS=table5: the table has no row for $model $strategy; it has ${MAPS[$model]}"
    done
done
INV_B=${INV_B:-${DAMPINGS[$SCALE]}} HORIZONS=${HORIZONS:-${TIMES[$SCALE]}} SEEDS=${SEEDS:-${REPEATS[$SCALE]}}
check_numbers INV_B any "$INV_B"
check_numbers HORIZONS any "$HORIZONS"
check_numbers SEEDS whole "$SEEDS"
declare -a extra=()
check_extra extra "--optimizer --physics-mode --alm-target --cl-warmup --inv-b-values --inv-b --b-values --horizon-values \
    --horizon --only-inv-b-values --shard-index --shard-count --seeds --seed --loss-scale --budget --out-dir --outdir \
    --save-path"
dt=$(fixed_dt "${extra[@]}")
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/node_$SCALE}")

get_python

new_tasks "$OUTDIR"
read -ra dampings <<<"$INV_B"
read -ra horizons <<<"$HORIZONS"
read -ra seeds <<<"$SEEDS"
mapfile -t columns < <(folder_values "${dampings[@]}")
mapfile -t rows < <(node_samples "$dt" "${horizons[@]}")
mapfile -t repeats < <(folder_values "${seeds[@]}")
cells="inv_b_$(choices "${columns[@]}")/n_$(choices "${rows[@]}")/seed_$(choices "${repeats[@]}")"
for model in "${models[@]}"; do
    [[ $OPT == all ]] && read -ra strategies <<<"${MAPS[$model]}"
    for strategy in "${strategies[@]}"; do
        read -ra flags <<<"${NODE_FLAGS[$model $strategy]}"
        add_task "${model^^}/$strategy" "${model}_$strategy/$model/pendulum/$strategy/$cells" \
            "$PYTHON" "$REPOSITORY/NeuralODE/run_sweep.py" "${flags[@]}" --inv-b-values "${dampings[@]}" \
            --horizon-values "${horizons[@]}" --seeds "${seeds[@]}" --loss-scale "$LOSS_SCALE" --budget "$SCALE" \
            --out-dir "$OUTDIR/${model}_$strategy" "${extra[@]}"
    done
done
then_run "$PYTHON" "$HERE/analysis/maps.py" "$OUTDIR" --thresholds "$THRESHOLDS"

echo "# neural ODE regime maps, scale $SCALE: ${#task_lines[@]} tasks (maps); results go to $OUTDIR"
run_tasks
