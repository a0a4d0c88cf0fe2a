#!/usr/bin/env bash
# Regime maps of physics-informed neural operators on 2D Darcy flow: every contrast r = a_max/a_min x number of training
# samples x seed, into run folders, then the maps. The data are made by the first task that needs them.
#
#     bash experiments/sweep_pino.sh
#     OPT=all SCALE=paper bash experiments/sweep_pino.sh
#     OPT="adam lbfgs" VALUES="1 10" N="5 100" SEEDS="0 1 2" EXTRA="--residual flux" LAUNCH=print ...
#
# Variables (defaults in brackets):
#     OPT      adam | lbfgs | adam_lbfgs | alm | alm_data | nncg | cl, several of them, or all: the five that the paper
#              has a map of  [adam]
#     SCALE    smoke: 2 x 2 on 16 x 16 nodes, seconds | laptop: 4 x 4 on 61 x 61, on two cores half an hour a map by
#              estimate | paper: its 8 x 8, 3 seeds, for GPUs  [laptop]
#     PRESET   of the network: tiny | small | paper  [smoke: tiny, laptop: small, paper: paper]
#     LAUNCH   slurm: submit to SLURM | local: train here | print: show the commands | auto: slurm where it answers,
#              else local  [auto]
#     JOBS     tasks at a time, with local  [number of GPUs, else of cores]
#     MAX_PARALLEL   tasks at a time, with slurm  [16]
#     GRES, CPUS, MEM, TIME   of a task, with slurm; none leaves one out  [gpu:1, 8, 32G, 4:00:00; sbatch's SBATCH_*
#              variables stand in for them, and are the place for account, partition, constraint ...]
#     OUTDIR   where run folders, logs and maps go  [results/pino_SCALE in the repository; with another PRESET than that
#              of SCALE results/pino_SCALE_PRESET]
#     DATA     folder of the data, made where missing  [paper: PINO/data in the repository; else OUTDIR/data]
#     VALUES   the physical axis, contrasts r, at least 1
#     N        the data axis, training samples; a file that is made holds the largest N
#     SEEDS    of the weights and the order of the samples; VALUES, N and SEEDS default to the grid of SCALE
#     THRESHOLDS   of the maps: percentile | table5 | common (one pair a system) | T_TRAIN,T_TEST  [percentile]
#     EXTRA    more flags of PINO/scripts/darcy_sweep.py, quoted as in a shell: "--piececonst_dir DIR" with VALUES=4
#              trains on the benchmark files
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# One task is one cell of a map: all seeds, one after another; with cl one row and seed, whose contrasts share a chain.
# Interrupted and started again, the sweep goes on where it was and does only what is missing. How it stands:
# bash experiments/status.sh OUTDIR
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"
# shellcheck source-path=SCRIPTDIR source=strategies_pino.sh
source "$HERE/strategies_pino.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

OPT=${OPT:-adam} SCALE=${SCALE:-laptop} THRESHOLDS=${THRESHOLDS:-percentile}

# The maps of the paper (its Table 5), those that take longest first, so that the tasks end together.
MAPS="cl nncg alm lbfgs adam"
declare -A CONTRASTS=([smoke]="1 10" [laptop]="1 2 4 10" [paper]="1 2 3 4 5 6 8 10")
declare -A SAMPLES=([smoke]="5 20" [laptop]="5 20 50 200" [paper]="5 10 20 50 100 200 500 1000")
declare -A REPEATS=([smoke]="0" [laptop]="0" [paper]="0 1 2")
declare -A PRESETS=([smoke]=tiny [laptop]=small [paper]=paper)
declare -A GRID=([smoke]="--N 61 --data_sub 4 --test_num 16" [laptop]="" [paper]="")

check_launch auto
check_choice SCALE "smoke laptop paper" "$SCALE"
check_thresholds
read -ra strategies <<<"$OPT"
check_choice OPT "$PINO_STRATEGIES all" "${strategies[@]}"
[[ ${#strategies[@]} == 1 || " ${strategies[*]} " != *" all "* ]] || die "OPT: all stands alone; got '$OPT'"
[[ $OPT != all ]] || read -ra strategies <<<"$MAPS"
for strategy in "${strategies[@]}"; do
    [[ $THRESHOLDS != table5 || " $MAPS " == *" $strategy "* ]] ||
        die "THRESHOLDS=table5: the table has no row for $strategy; it has $MAPS"
done
PRESET=${PRESET:-${PRESETS[$SCALE]}}
check_choice PRESET "tiny small paper" "$PRESET"
VALUES=${VALUES:-${CONTRASTS[$SCALE]}} N=${N:-${SAMPLES[$SCALE]}} SEEDS=${SEEDS:-${REPEATS[$SCALE]}}
check_numbers VALUES any "$VALUES"
check_numbers N whole "$N"
check_numbers SEEDS whole "$SEEDS"
read -ra values <<<"$VALUES"
for value in "${values[@]}"; do
    awk "BEGIN { exit !($value >= 1) }" || die "VALUES: a contrast is at least 1; got '$value'"
done
for n in $N; do
    ((10#$n > 0)) || die "N must be at least 1; got '$n'"
done
mapfile -t contrasts < <(folder_values "${values[@]}")
check_choice VALUES "${contrasts[*]}" "${contrasts[@]}"
read -ra seeds <<<"$SEEDS"
mapfile -t seeds < <(folder_values "${seeds[@]}")
check_choice SEEDS "${seeds[*]}" "${seeds[@]}"
declare -a extra=()
check_extra extra "$PINO_GIVEN"
folder=pino_$SCALE
[[ $PRESET == "${PRESETS[$SCALE]}" ]] || folder+=_$PRESET
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/$folder}")
folder=$OUTDIR/data
[[ $SCALE != paper ]] || folder=$REPOSITORY/PINO/data
DATA=$(absolute "${DATA:-$folder}")

get_python

new_tasks "$OUTDIR"
# Many samples take longest: begin with them, so that the tasks end together.
mapfile -t amounts < <(tr -s ' \t' '\n' <<<"$N" | grep . | sort -rnu)
declare -a made=()
if [[ -z ${PINO_PIECECONST_DIR:-} && " ${extra[*]}" != *" --piececonst_dir"* ]]; then # benchmark files are not made
    read -ra made <<<"--data_rows $((10#${amounts[0]})) ${GRID[$SCALE]}"
fi

# add_cells CELLS "R ..." "SEED ...": a task of the strategy and n at hand; CELLS name it.
add_cells() {
    local -a flags columns repeats
    read -ra flags <<<"${PINO_FLAGS[$strategy]}"
    read -ra columns <<<"$2"
    read -ra repeats <<<"$3"
    add_task "darcy/$strategy $1" "darcy/$strategy/r_$(choices "${columns[@]}")/n_$n/seed_$(choices "${repeats[@]}")" \
        "$PYTHON" "$REPOSITORY/PINO/scripts/darcy_sweep.py" "${flags[@]}" --r "${columns[@]}" --n_samples "$n" \
        --seed "${repeats[@]}" --preset "$PRESET" --budget "$SCALE" --outdir "$OUTDIR" --data_dir "$DATA" \
        "${made[@]}" "${extra[@]}"
}

for strategy in "${strategies[@]}"; do
    for n in "${amounts[@]}"; do
        n=$((10#$n))
        if [[ $strategy == cl ]]; then # the contrasts of a seed share a chain
            for seed in "${seeds[@]}"; do add_cells "n_$n seed_$seed" "${contrasts[*]}" "$seed"; done
        else
            for contrast in "${contrasts[@]}"; do add_cells "r_$contrast n_$n" "$contrast" "${seeds[*]}"; done
        fi
    done
done
then_run "$PYTHON" "$HERE/analysis/maps.py" "$OUTDIR" --thresholds "$THRESHOLDS"

echo "# PINO regime maps, scale $SCALE, $PRESET network: ${#task_lines[@]} tasks (cells of maps, rows of cl);" \
    "results go to $OUTDIR, data to $DATA"
run_tasks
