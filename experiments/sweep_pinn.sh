#!/usr/bin/env bash
# Regime maps of PINNs: every physical value x number of collocation points x seed, into run folders, then the maps.
#
#     bash experiments/sweep_pinn.sh
#     PDE=reaction OPT=alm SCALE=paper bash experiments/sweep_pinn.sh
#     OPT="lbfgs adam" VALUES="5 20 35 50" N_RES="100 1000" SEEDS="0 1 2" EXTRA="--iterations 4000" LAUNCH=print ...
#
# Variables (defaults in brackets):
#     PDE      convection | reaction | wave | reaction_diffusion, several of them, or all  [convection]
#     OPT      lbfgs | alm | nncg | cl | ropinn | adam | adam_lbfgs, several of them, or all: those that the paper
#              has a map of, for each system  [lbfgs]
#     SCALE    smoke: 2 x 2, seconds | laptop: 5 x 4, minutes to an hour | paper: its grids, 5 seeds, for GPUs  [laptop]
#     LAUNCH   slurm: submit to SLURM | local: train here | print: show the commands | auto: slurm where it answers,
#              else local  [auto]
#     JOBS     tasks at a time, with local  [number of GPUs, else of cores]
#     MAX_PARALLEL   tasks at a time, with slurm  [16]
#     GRES, CPUS, MEM, TIME   of a task, with slurm; none leaves one out  [gpu:1, 8, 32G, 4:00:00; sbatch's SBATCH_*
#              variables stand in for them, and are the place for account, partition, constraint ...]
#     OUTDIR   where run folders, logs and maps go  [results/pinn_SCALE in the repository]
#     VALUES, N_RES, SEEDS   the grid, instead of that of SCALE (VALUES with one PDE only)
#     THRESHOLDS   of the maps: percentile | table5 | common (one pair a system) | T_TRAIN,T_TEST  [percentile]
#     EXTRA    more flags of PINN/run_experiment.py, quoted as in a shell
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# One task is one row of a map: all physical values and seeds at one N_RES, side by side. Interrupted and started again,
# the sweep goes on where it was and does only what is missing. How it stands: bash experiments/status.sh OUTDIR
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

SYSTEMS="convection reaction wave reaction_diffusion"
STRATEGIES="lbfgs alm nncg cl ropinn adam adam_lbfgs"
PDE=${PDE:-convection} OPT=${OPT:-lbfgs} SCALE=${SCALE:-laptop} THRESHOLDS=${THRESHOLDS:-percentile}

declare -A PHYSICAL=([convection]=beta [reaction]=rho [wave]=c [reaction_diffusion]=rho)
# The maps of the paper (its Table 5).
declare -A MAPS=(
    [convection]="lbfgs alm ropinn nncg cl" [reaction]="lbfgs alm ropinn nncg"
    [wave]="lbfgs alm ropinn" [reaction_diffusion]="lbfgs alm ropinn"
)
declare -A GRID=(
    [smoke convection]="5 50" [laptop convection]="5 15 25 35 50"
    [smoke reaction]="1 5" [laptop reaction]="1 3 5 8 12"
    [smoke wave]="1 4" [laptop wave]="0.5 1 2 4 6"
    [smoke reaction_diffusion]="1 15" [laptop reaction_diffusion]="1 5 10 20 30"
    [paper convection]="5 10 15 20 25 30 35 40 45 50 55 60 65 70"
    [paper reaction]="1 2 3 4 5 6 7 8 9 10 11 12"
    [paper wave]="0.1 0.5 1 1.5 2 2.5 3 3.5 4 4.5 5 5.5 6"
    [paper reaction_diffusion]="1 2.5 5 7.5 10 12.5 15 17.5 20 22.5 25 27.5 30"
)
declare -A POINTS=([smoke]="100 200" [laptop]="100 500 1000 5000" [paper]="100 500 1000 5000 10000 15000 20000")
declare -A REPEATS=([smoke]="0" [laptop]="0" [paper]="0 1 2 3 4")

check_launch auto
check_choice SCALE "smoke laptop paper" "$SCALE"
check_thresholds
read -ra systems <<<"$PDE"
read -ra strategies <<<"$OPT"
check_choice PDE "$SYSTEMS all" "${systems[@]}"
check_choice OPT "$STRATEGIES all" "${strategies[@]}"
[[ $PDE == all ]] && read -ra systems <<<"$SYSTEMS"
[[ " ${systems[*]} " != *" all "* ]] || die "PDE: all stands alone; got '$PDE'"
[[ ${#strategies[@]} == 1 || " ${strategies[*]} " != *" all "* ]] || die "OPT: all stands alone; got '$OPT'"
for system in "${systems[@]}"; do
    for strategy in "${strategies[@]}"; do
        [[ $THRESHOLDS != table5 || " ${MAPS[$system]} all " == *" $strategy "* ]] ||
            die "THRESHOLDS=table5: the table has no row for $system $strategy; it has ${MAPS[$system]}"
    done
done
[[ -z ${VALUES:-} || ${#systems[@]} == 1 ]] || die "VALUES needs a single PDE; got '$PDE'"
N_RES=${N_RES:-${POINTS[$SCALE]}} SEEDS=${SEEDS:-${REPEATS[$SCALE]}}
check_numbers VALUES any "${VALUES:-1}"
check_numbers N_RES whole "$N_RES"
check_numbers SEEDS whole "$SEEDS"
declare -a extra=()
check_extra extra "--pde --pde_params --opt --num_res --initial_seed --budget --save_path --hc --cl"
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/pinn_$SCALE}")

get_python

new_tasks "$OUTDIR"
read -ra seeds <<<"$SEEDS"
mapfile -t names < <(folder_values "${seeds[@]}")
repeats="seed_$(choices "${names[@]}")"
# Rows with many points take longest: begin with them, so that the tasks end together.
mapfile -t rows < <(tr -s ' \t' '\n' <<<"$N_RES" | grep . | sort -rnu)
for system in "${systems[@]}"; do
    [[ $OPT == all ]] && read -ra strategies <<<"${MAPS[$system]}"
    read -ra values <<<"${VALUES:-${GRID[$SCALE $system]}}"
    mapfile -t names < <(folder_values "${values[@]}")
    cells="${PHYSICAL[$system]}_$(choices "${names[@]}")"
    list=$(printf ', %s' "${names[@]}") # as JSON writes numbers, which has no .5
    for strategy in "${strategies[@]}"; do
        for n in "${rows[@]}"; do
            add_task "$system/$strategy n_$n" "$system/$strategy/$cells/n_$(folder_values "$n")/$repeats" \
                "$PYTHON" "$REPOSITORY/PINN/run_experiment.py" --pde "$system" --pde_params \
                "{\"${PHYSICAL[$system]}\": [${list:2}]}" --opt "$strategy" --num_res "$n" --initial_seed "${seeds[@]}" \
                --budget "$SCALE" --save_path "$OUTDIR" "${extra[@]}"
        done
    done
done
then_run "$PYTHON" "$HERE/analysis/maps.py" "$OUTDIR" --thresholds "$THRESHOLDS"

echo "# PINN regime maps, scale $SCALE: ${#task_lines[@]} tasks (rows of maps); results go to $OUTDIR"
run_tasks
