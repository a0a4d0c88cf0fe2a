#!/usr/bin/env bash
# One training run of a Fourier neural operator, then its result among those of the earlier calls.
#
#     bash experiments/run_fno_training.sh
#     CONFIG=poisson_scale_k10.0_20.0_val1024_64K SUBSAMPLE=128 SEED=1 bash experiments/run_fno_training.sh
#     YAML_CONFIG=config/operators_ad_64K.yaml CONFIG=ad_scale_0p2_0p4_val1024_64K bash experiments/run_fno_training.sh
#     DATA_OPTIONS="--n 64 --ntrain 2048 --nval 512 --ntest 512" SUBSAMPLE=16 bash experiments/run_fno_training.sh
#
# Variables (defaults in brackets):
#     YAML_CONFIG   file of configurations, relative to here or to FNO/  [config/operators_poisson_64K.yaml]
#     CONFIG        its configuration: system, coefficient range, network  [poisson_scale_k1.0_2.5_val1024_64K]
#     SUBSAMPLE     trained on is every SUBSAMPLE-th row of the training data  [32: 1024 of 32768]
#     MAX_EPOCHS    a number, or auto: by the number of samples, as in the paper  [500]
#     LR            of Adam  [1e-3]
#     BATCH_SIZE    samples a step  [128]
#     SEED          of the weights and the order of the samples  [0]
#     GPU           which GPU, where there is one  [0]
#     OUTDIR        where run folders and logs go  [results/fno_training in the repository]
#     DATA          folder of the data, made where missing: 5.4 GB a coefficient range  [FNO/data/SYSTEM in the
#                   repository; with DATA_OPTIONS OUTDIR/data]
#     DATA_OPTIONS  flags of the generator, FNO/utils/gen_data_SYSTEM.py, for less of them  [none: its defaults, which
#                   are the paper's]
#     LAUNCH        local: train here | print: show the command  [local]
#     EXTRA         more flags of FNO/train.py, quoted as in a shell
#     PYTHON        the Python to use  [see experiments/setup.sh]
#
# Interrupted and started again, it goes on where it was.
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

YAML_CONFIG=${YAML_CONFIG:-config/operators_poisson_64K.yaml} CONFIG=${CONFIG:-poisson_scale_k1.0_2.5_val1024_64K}
SUBSAMPLE=${SUBSAMPLE:-32} MAX_EPOCHS=${MAX_EPOCHS:-500} LR=${LR:-1e-3} BATCH_SIZE=${BATCH_SIZE:-128}
SEED=${SEED:-0} GPU=${GPU:-0}
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/fno_training}")

check_launch local "local print"
check_number SUBSAMPLE whole "$SUBSAMPLE"
[[ $MAX_EPOCHS == auto || $MAX_EPOCHS =~ ^[1-9][0-9]*$ ]] ||
    die "MAX_EPOCHS must be auto or a whole number from 1; got '$MAX_EPOCHS'"
check_number LR any "$LR"
check_number BATCH_SIZE whole "$BATCH_SIZE"
check_number SEED whole "$SEED"
check_number GPU whole "$GPU"
declare -a extra=() data=()
check_extra extra "--yaml-config --config --root-dir --data-dir --generate --subsample --max-epochs --lr --batch-size \
    --seed"
# Smaller data must not be taken for the paper's, which have the same names.
[[ -z ${DATA_OPTIONS:-} ]] || DATA=${DATA:-$OUTDIR/data}
[[ -z ${DATA:-} ]] || data=(--data_dir "$(absolute "$DATA")")
[[ ! -e $YAML_CONFIG ]] || YAML_CONFIG=$(absolute "$YAML_CONFIG")

choose_gpu "$GPU"
get_python

new_tasks "$OUTDIR"
add_task "$CONFIG subsample_$SUBSAMPLE seed_$SEED" "" "$PYTHON" "$REPOSITORY/FNO/train.py" \
    --yaml_config "$YAML_CONFIG" --config "$CONFIG" --root_dir "$OUTDIR" "${data[@]}" \
    "--generate${DATA_OPTIONS:+=$DATA_OPTIONS}" --subsample "$SUBSAMPLE" \
    --max_epochs "$MAX_EPOCHS" --lr "$LR" --batch_size "$BATCH_SIZE" --seed "$SEED" "${extra[@]}"
then_run "$PYTHON" "$HERE/analysis/runs.py" "$OUTDIR"

echo "# FNO, $CONFIG, subsample $SUBSAMPLE, seed $SEED, epochs: $MAX_EPOCHS"
echo "# on $DEVICE; results go to $OUTDIR"
run_tasks
