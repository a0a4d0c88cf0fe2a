#!/usr/bin/env bash
# The paper's figures of loss landscapes: trains the runs that they need, looks at each with diagnose.py of its module,
# and draws the figures.
#
#     bash experiments/landscapes.sh
#     FIGURE="6 12" SEEDS="0 1 2 3 4" bash experiments/landscapes.sh
#     FIGURE=5 SCALE=paper LAUNCH=print bash experiments/landscapes.sh
#
# Variables (defaults in brackets):
#     FIGURE   5: surfaces | 6, 16: spectral densities | 7, 12: sharpening | 13: surfaces and densities of
#              reaction-diffusion | 11: maps of lambda_max | 14: tail exponents | 15: path from L-BFGS to ALM; several
#              of them, or all  [5 6 7 12 13 15 16]
#     SCALE    smoke: a look whether all works | laptop: PINNs of 2,000 iterations, the smallest FNO on 64 x 64 grids, a
#              narrow ResNet on 1,000 images | paper: its cells and networks, for GPUs  [laptop]
#     LAUNCH   slurm: submit to SLURM | local: train here | print: show the commands | auto: slurm where it answers,
#              else local  [auto]
#     JOBS     tasks at a time, with local  [number of GPUs, else of cores]
#     MAX_PARALLEL   tasks at a time, with slurm  [16]
#     GRES, CPUS, MEM, TIME   of a task, with slurm; none leaves one out  [gpu:1, 8, 32G, 4:00:00; sbatch's SBATCH_*
#              variables stand in for them, and are the place for account, partition, constraint ...]
#     OUTDIR   where run folders, logs and figures go  [results/landscapes_SCALE in the repository]
#     SEEDS    of figures 7, 11, 12 and 14; the others show the first  [smoke 0; laptop 0 1 2, in figure 11 0; paper 0
#              1 2 3 4]
#     FNO_DATA, CNN_DATA   folders of the data, made or downloaded where missing  [FNO: OUTDIR/data, with SCALE=paper
#              FNO/data in the repository; CNN/data in the repository]
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# One task is one run: its training, as the sweep of its module would do it (of PINNs with --hessian_every log), then the
# tools of diagnose.py, each also where one before it failed. Figures share runs: each is trained once. Those of figure 11
# are whole maps, in OUTDIR/maps. Interrupted and started again, the script goes on where it was and does only what is
# missing. A task that fails, such as that of a ResNet where CIFAR cannot be downloaded, leaves the others alone.
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

FIGURES="5 6 7 11 12 13 14 15 16"
SCALE=${SCALE:-laptop}

declare -A REPEATS=([smoke]="0" [laptop]="0 1 2" [paper]="0 1 2 3 4")
# Collocation points: of figures 12 to 14 where they are many, of 7, 16 and 15; beta of 15, where ALM solves what L-BFGS
# does not.
declare -A POINTS=([smoke]=200 [laptop]=1000 [paper]=1000)
declare -A MANY=([smoke]=200 [laptop]=1000 [paper]=15000)
declare -A PATH_N=([smoke]=100 [laptop]=1000 [paper]=10000) PATH_BETA=([smoke]=30 [laptop]=30 [paper]=40)
declare -A MOST=([smoke]=200 [laptop]=1000 [paper]=20000)
declare -A FEW_SAMPLES=([smoke]=16 [laptop]=64 [paper]=256) SAMPLES=([smoke]=64 [laptop]=1024 [paper]=16384)
declare -A IMAGES=([smoke]=100 [laptop]=1000 [paper]=50000)
declare -A MOMENTS=([smoke]=log:5 [laptop]=log [paper]=log) # at which lambda_max is recorded
# On a core a Hessian product of the ResNet of width 8 takes 10 s, 1 to 3 s in float32; of the FNO of 64K 2 s on 32 x 32
# grids, 3 to 6 s on 64 x 64. So few of them, at laptop scale 140 a run: by estimate 5 minutes and 10.
declare -A TOOLS=(
    [smoke hessian]="--iterations 10 --probes 2 --trace_samples 10" [smoke landscape]="--grid 11 --line_points 21"
    [smoke FNO hessian]="--iterations 5 --probes 1 --trace_samples 2 --precision float32"
    [smoke FNO landscape]="--grid 11 --line_points 21 --precision float32"
    [smoke CNN hessian]="--iterations 5 --probes 1 --trace_samples 2 --precision float32"
    [smoke CNN landscape]="--grid 11 --line_points 21 --precision float32"
    [smoke connectivity]="--steps 20 --points 11" [smoke steps]="--loss 0.5 --steps 20"
    [laptop steps]="--loss 5e-2" # to which beta = 20 comes within 2,000 iterations
    [laptop FNO hessian]="--iterations 30 --probes 2 --trace_samples 10" [laptop FNO landscape]="--grid 25"
    [laptop CNN hessian]="--iterations 30 --probes 2 --trace_samples 10 --precision float32"
    [laptop CNN landscape]="--grid 25 --precision float32"
)

check_launch auto
check_choice SCALE "smoke laptop paper" "$SCALE"
read -ra figures <<<"${FIGURE:-5 6 7 12 13 15 16}"
check_choice FIGURE "$FIGURES all" "${figures[@]}"
[[ ${#figures[@]} == 1 || " ${figures[*]} " != *" all "* ]] || die "FIGURE: all stands alone; got '$FIGURE'"
[[ ${figures[*]} != all ]] || read -ra figures <<<"$FIGURES"
check_numbers SEEDS whole "${SEEDS:-0}"
read -ra seeds <<<"${SEEDS:-${REPEATS[$SCALE]}}"
mapfile -t seeds < <(folder_values "${seeds[@]}")
check_choice SEEDS "${seeds[*]}" "${seeds[@]}"
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/landscapes_$SCALE}")
folder=$OUTDIR/data
[[ $SCALE != paper ]] || folder=$REPOSITORY/FNO/data
FNO_DATA=$(absolute "${FNO_DATA:-$folder}") CNN_DATA=$(absolute "${CNN_DATA:-$REPOSITORY/CNN/data}")

get_python
export PYTHON

# ---- which runs, and what is looked at ---------------------------------------------------------------------------

# Runs in order, "MODULE SCRIPT VARIABLE=VALUE ..."; the tools of each.
declare -a wanted=()
declare -A tools=()

# want TOOLS MODULE SETTING...
want() {
    local run="${*:2}"
    [[ -n ${tools["$run"]+set} ]] || wanted+=("$run")
    tools["$run"]+=" $1"
}

# pinn TOOLS SYSTEM STRATEGY VALUE N SEED
pinn() { want "$1" PINN "PDE=$2" "OPT=$3" "VALUES=$4" "N_RES=$5" "SEEDS=$6"; }
fno() { want "$1" FNO SYSTEM=poisson "RANGES=$2" "N=$3" "SEEDS=${seeds[0]}"; }
cnn() { want "$1" CNN OPT=sgd LRS=0.1 "N_SAMPLES=${IMAGES[$SCALE]}" "SEEDS=${seeds[0]}"; }

# case_studies TOOLS: the five panels of figures 5 and 6.
case_studies() {
    pinn "$1" convection lbfgs 5 100 "${seeds[0]}"
    pinn "$1" convection lbfgs 50 500 "${seeds[0]}"
    fno "$1" 2.5-5 "${FEW_SAMPLES[$SCALE]}"
    fno "$1" 100-200 "${SAMPLES[$SCALE]}"
    cnn "$1"
}

for figure in "${figures[@]}"; do
    case $figure in
        5) case_studies landscape ;;
        6) case_studies hessian ;;
        7) for seed in "${seeds[@]}"; do pinn "" convection lbfgs 5 "${MANY[$SCALE]}" "$seed"; done ;;
        12)
            for n in 100 "${POINTS[$SCALE]}"; do
                for beta in 5 50; do
                    for seed in "${seeds[@]}"; do pinn "" convection lbfgs "$beta" "$n" "$seed"; done
                done
            done
            ;;
        13)
            for rho in 5 15; do
                pinn "hessian landscape" reaction_diffusion lbfgs "$rho" "${POINTS[$SCALE]}" "${seeds[0]}"
            done
            ;;
        14)
            for beta in 5 20; do
                for seed in "${seeds[@]}"; do pinn steps convection lbfgs "$beta" "${POINTS[$SCALE]}" "$seed"; done
            done
            ;;
        15) pinn connectivity convection lbfgs "${PATH_BETA[$SCALE]}" "${PATH_N[$SCALE]}" "${seeds[0]}" ;;
        16)
            for n in 100 "${MOST[$SCALE]}"; do
                for beta in 5 50; do pinn hessian convection lbfgs "$beta" "$n" "${seeds[0]}"; done
            done
            cnn hessian
            ;;
    esac
done

# ---- tasks -------------------------------------------------------------------------------------------------------

declare -A SWEEP=([PINN]=sweep_pinn.sh [FNO]=sweep_fno.sh [CNN]=sweep_cnn.sh)

# load_sweep MODULE FOLDER SETTING...: the tasks of a sweep into that folder.
load_sweep() {
    local module=$1 text
    local -a settings=(LAUNCH=print "SCALE=$SCALE" "OUTDIR=$2" "${@:3}")
    [[ $module != FNO ]] || settings+=("DATA=$FNO_DATA")
    [[ $module != CNN ]] || settings+=("DATA=$CNN_DATA")
    text=$(env -u SEEDS "${settings[@]}" bash "$HERE/${SWEEP[$module]}" 2>&1) || die "${SWEEP[$module]}: $text"
    load_tasks <(echo "$text")
}

# look TOOL MODULE RUN: the command of a tool in `words`, the file that it leaves in `result`.
look() {
    local run=$OUTDIR/$3
    local -a flags=()
    read -ra flags <<<"${TOOLS[$SCALE $2 $1]:-${TOOLS[$SCALE $1]:-}}"
    words=("$PYTHON" "$REPOSITORY/$2/diagnose.py" "$1" "$run") result=$3/$1.json
    if [[ $1 == connectivity ]]; then
        words+=("${run/\/lbfgs\///alm/}")
        result=${3#*/lbfgs/} result=$3/connectivity_alm-${result//\//-}.json
    fi
    words+=("${flags[@]}")
    [[ $2 != FNO ]] || words+=(--data_dir "$FNO_DATA/poisson")
    [[ $2 != CNN ]] || words+=(--data_dir "$CNN_DATA")
}

new_tasks "$OUTDIR"
declare -a words=() results=() # results: files of the tools, by task
result=""
for run in "${wanted[@]}"; do
    read -ra settings <<<"$run"
    module=${settings[0]}
    [[ $module != PINN ]] || settings+=("EXTRA=--hessian_every ${MOMENTS[$SCALE]}") # of figures 7 and 12
    load_sweep "$module" "$OUTDIR" "${settings[@]:1}"
    task=$((${#task_lines[@]} - 1)) line=${task_lines[-1]} folder=${task_runs[-1]}
    task_labels[task]=${folder//\// }
    for tool in hessian landscape connectivity steps; do # the shorter first
        [[ " ${tools["$run"]} " == *" $tool "* ]] || continue
        if [[ $tool == connectivity ]]; then # the other end first
            line="${line/--opt lbfgs /--opt alm } -- $line"
            task_runs[task]=${folder/\/lbfgs\//\/\{alm,lbfgs\}\/}
        fi
        look "$tool" "$module" "$folder"
        line+=" -- $(quote "${words[@]}")"
        results[task]+=" $result"
    done
    [[ $line != *' -- '* ]] || line="$(quote "$PYTHON" "$HERE/in_turn.py") $line"
    task_lines[task]=$line
done

# Whole sweeps: maps of lambda_max, of the final weights and with one look at the initial ones, and step lengths.
declare -a repeats=()
[[ -z ${SEEDS:-} ]] || repeats=("SEEDS=$SEEDS")
first=${#task_lines[@]}
if [[ " ${figures[*]} " == *" 11 "* ]]; then
    load_sweep FNO "$OUTDIR/maps" SYSTEM=poisson 'EXTRA=--hessian_every log:1' "${repeats[@]}"
    load_sweep PINN "$OUTDIR/maps" PDE=reaction_diffusion 'EXTRA=--hessian_every log:1' "${repeats[@]}"
    for ((task = first; task < ${#task_lines[@]}; task++)); do
        task_labels[task]="maps ${task_labels[task]}" task_runs[task]=maps/${task_runs[task]}
    done
fi
[[ " ${figures[*]} " != *" 14 "* ]] || load_sweep CNN "$OUTDIR" OPT=trajectory "${repeats[@]}"

# What a tool left and is gone again is made again.
if [[ $LAUNCH != print ]]; then
    for task in "${!results[@]}"; do
        for result in ${results[task]}; do
            note=$(status_of "$task")
            if [[ ! -e $OUTDIR/$result && -e $note && $(<"$note") == "exit 0"* ]]; then rm -f -- "$note"; fi
        done
    done
fi

then_run "$PYTHON" "$HERE/figures.py" "${figures[@]}" --scale "$SCALE" --results "$OUTDIR" --out "$OUTDIR/figures"

echo "# landscapes of figures ${figures[*]}, scale $SCALE: ${#task_lines[@]} tasks; results go to $OUTDIR"
run_tasks
