#!/usr/bin/env bash
# One cell of the map of Darcy flow trained by every optimizer, then a table and comparison.png. Adam runs first; ALM
# and NNCG start from the end of its run, L-BFGS and the curriculum from initial weights.
#
#     bash experiments/run_pino_optimizer_comparison.sh
#     R=5 N_SAMPLES=500 SEED=1 GPU=2 bash experiments/run_pino_optimizer_comparison.sh
#     BUDGET=laptop N_SAMPLES=50 ALM_MU=1 ALM_OUTER=20 bash experiments/run_pino_optimizer_comparison.sh
#
# Variables (defaults in brackets):
#     R        contrast a_max/a_min of the coefficient  [10]
#     N_SAMPLES   training samples  [1000]
#     SEED     of the weights and the order of the samples  [0]
#     GPU      which GPU, where there is one  [0]
#     OUTDIR   where run folders, logs, table and picture go  [results/pino_comparison in the repository]
#     BUDGET   iterations: smoke | laptop (minutes with a few dozen samples) | paper (its Table 3, for a GPU; cl takes
#              the longest)  [paper]
#     PRESET   of the network: tiny | small | paper  [smoke: tiny, laptop: small, paper: paper]
#     OPTS     which optimizers, also adam_lbfgs (L-BFGS after the Adam run) and alm_data (the data as the constraint)
#              [adam lbfgs alm nncg cl]
#     ADAM_STEPS   iterations of Adam  [paper: 15000; else those of BUDGET]
#     CKPT_DIR     outdir of finished Adam runs, from which adam_lbfgs, alm, alm_data and nncg start  [OUTDIR]
#     ALM_MU, ALM_RHO   first penalty and its growth  [2, 1.05]
#     ALM_OUTER, ALM_INNER   solves, and iterations of each  [paper: 50, 500; else those of BUDGET]
#     NNCG_FB_CHUNK   samples whose graph a Hessian-vector product of nncg keeps at a time; 0: chosen by device  [8]
#     DATA     folder of the data, made where missing: 1000 samples, and 200 to test on, take about 5 minutes
#              on a core; cl needs the 1000 at each of its stages as well, 90 more at R=10 and BUDGET=paper
#              [PINO_DATA_DIR, else PINO/data in the repository]
#     JOBS     optimizers at a time  [number of GPUs, which is 1 here, else of cores]
#     LAUNCH   local: train here | print: show the commands  [local]
#     EXTRA    more flags of PINO/scripts/darcy_sweep.py, for all optimizers, quoted as in a shell
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# An optimizer that fails leaves the others alone, but for those that start from the Adam run. Interrupted and started
# again, it goes on where it was.
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"
# shellcheck source-path=SCRIPTDIR source=strategies_pino.sh
source "$HERE/strategies_pino.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

R=${R:-10} N_SAMPLES=${N_SAMPLES:-1000} SEED=${SEED:-0} GPU=${GPU:-0} BUDGET=${BUDGET:-paper}
OPTS=${OPTS:-adam lbfgs alm nncg cl}
ALM_MU=${ALM_MU:-2} ALM_RHO=${ALM_RHO:-1.05} NNCG_FB_CHUNK=${NNCG_FB_CHUNK:-8}
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/pino_comparison}")
CKPT_DIR=$(absolute "${CKPT_DIR:-$OUTDIR}")

declare -A PRESETS=([smoke]=tiny [laptop]=small [paper]=paper)

check_launch local "local print"
check_choice BUDGET "smoke laptop paper" "$BUDGET"
[[ $BUDGET != paper ]] || ADAM_STEPS=${ADAM_STEPS:-15000} ALM_OUTER=${ALM_OUTER:-50} ALM_INNER=${ALM_INNER:-500}
PRESET=${PRESET:-${PRESETS[$BUDGET]}}
check_choice PRESET "tiny small paper" "$PRESET"
read -ra optimizers <<<"$OPTS"
check_choice OPTS "$PINO_STRATEGIES" "${optimizers[@]}"
for name in R ALM_MU ALM_RHO; do check_number "$name" any "${!name}"; done
for name in N_SAMPLES SEED GPU NNCG_FB_CHUNK; do check_number "$name" whole "${!name}"; done
for name in ADAM_STEPS ALM_OUTER ALM_INNER; do [[ -z ${!name:-} ]] || check_number "$name" whole "${!name}"; done
declare -a extra=() data=()
check_extra extra "$PINO_GIVEN --ckpt-dir --steps"
[[ -z ${DATA:-} ]] || data=(--data_dir "$(absolute "$DATA")")

cell="r_$(folder_values "$R")/n_$(folder_values "$N_SAMPLES")/seed_$(folder_values "$SEED")"
adam_first=false
[[ ${#optimizers[@]} == 1 || " ${optimizers[*]} " != *" adam "* || $CKPT_DIR != "$OUTDIR" ]] || adam_first=true
for opt in "${optimizers[@]}"; do
    case $opt in
        adam_lbfgs | alm | alm_data | nncg)
            $adam_first || [[ -e $CKPT_DIR/darcy/adam/$cell/metrics.json ]] ||
                die "OPTS: $opt starts from a finished Adam run, and there is none in $CKPT_DIR/darcy/adam/$cell; add" \
                    "adam to OPTS, or name the outdir of one in CKPT_DIR"
            ;;
    esac
done

choose_gpu "$GPU"
get_python

# add_optimizer NAME
add_optimizer() {
    local -a flags
    read -ra flags <<<"${PINO_FLAGS[$1]}"
    case $1 in
        adam) flags+=(${ADAM_STEPS:+--steps "$ADAM_STEPS"}) ;;
        adam_lbfgs | alm | alm_data | nncg) flags+=(--ckpt_dir "$CKPT_DIR") ;;
    esac
    case $1 in
        alm | alm_data)
            flags+=(--alm_mu "$ALM_MU" --alm_rho "$ALM_RHO" ${ALM_OUTER:+--alm_outer_iters "$ALM_OUTER"}
                ${ALM_INNER:+--alm_inner_step "$ALM_INNER"})
            ;;
        nncg) flags+=(--full_block "$NNCG_FB_CHUNK") ;;
    esac
    add_task "darcy/$1 ${cell//\// }" "darcy/$1/$cell" "$PYTHON" "$REPOSITORY/PINO/scripts/darcy_sweep.py" \
        "${flags[@]}" --r "$R" --n_samples "$N_SAMPLES" --seed "$SEED" --preset "$PRESET" --budget "$BUDGET" \
        --outdir "$OUTDIR" "${data[@]}" "${extra[@]}"
}

echo "# PINO, Darcy flow, r $R, n $N_SAMPLES, seed $SEED, budget $BUDGET, $PRESET network: ${optimizers[*]}"
echo "# on $DEVICE; results go to $OUTDIR"
code=0
if $adam_first; then
    new_tasks "$OUTDIR"
    add_optimizer adam
    run_tasks || code=$?
    ((code != 75)) || exit 75
fi
new_tasks "$OUTDIR"
for opt in "${optimizers[@]}"; do
    case $opt in
        adam) $adam_first || add_optimizer adam ;;
        adam_lbfgs | alm | alm_data | nncg)
            if ((code)); then # a run that is there nevertheless is another one
                echo "$opt is left out: the Adam run that it starts from failed" >&2
            else
                add_optimizer "$opt"
            fi
            ;;
        *) add_optimizer "$opt" ;;
    esac
done
then_run "$PYTHON" "$HERE/analysis/comparison.py" "$OUTDIR" --model PINO --system darcy --physical "r=$R" \
    --n "$N_SAMPLES" --seed "$SEED"
others=0
run_tasks || others=$?
# The gravest: 75 interrupted, then 1 failed, 2 bad input, 3 held.
((others != 75 && code && (!others || code < others))) || code=$others
exit "$code"
