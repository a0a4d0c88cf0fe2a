#!/usr/bin/env bash
# One training run of ResNet-18 on CIFAR, then its result among those of the earlier calls.
#
#     bash experiments/run_cnn_training.sh
#     MODEL=ResNet18_w16 EPOCHS=20 N_SAMPLES=5000 SEED=1 bash experiments/run_cnn_training.sh
#     DATASET=CIFAR-100 EXTRA="--mixed_precision tf32" bash experiments/run_cnn_training.sh
#
# Variables (defaults in brackets):
#     MODEL     ResNet18, or with fewer channels ResNet18_w32 | ResNet18_w16 | ResNet18_w8  [ResNet18]
#     DATASET   CIFAR-10 | CIFAR-100  [CIFAR-10]
#     EPOCHS    passes over the training images  [200]
#     BATCH_SIZE   images a step  [128]
#     LR        of SGD with momentum, at the start  [0.1]
#     SEED      of the weights, the order of the images and their augmentation  [0]
#     GPU       which GPU, where there is one  [0]
#     OUTDIR    where run folders and logs go  [results/cnn_training in the repository]
#     DATA      folder of the data, downloaded where missing: 170 MB  [CNN/data in the repository]
#     N_SAMPLES    training images, equally many of each class  [all: 50000]
#     LAUNCH    local: train here | print: show the command  [local]
#     EXTRA     more flags of CNN/run_exp.py, quoted as in a shell
#     PYTHON    the Python to use  [see experiments/setup.sh]
#
# The final weights are saved in the run folder. Interrupted and started again, it goes on where it was.
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

MODEL=${MODEL:-ResNet18} DATASET=${DATASET:-CIFAR-10} EPOCHS=${EPOCHS:-200} BATCH_SIZE=${BATCH_SIZE:-128}
LR=${LR:-0.1} SEED=${SEED:-0} GPU=${GPU:-0}
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/cnn_training}")

check_launch local "local print"
check_choice MODEL "ResNet18 ResNet18_w32 ResNet18_w16 ResNet18_w8" "$MODEL"
check_choice DATASET "CIFAR-10 CIFAR-100" "$DATASET"
check_number EPOCHS whole "$EPOCHS"
check_number BATCH_SIZE whole "$BATCH_SIZE"
check_number LR any "$LR"
awk "BEGIN { exit !($LR > 0 && $LR <= 3.4e38) }" 2>/dev/null ||
    die "LR must be positive and at most 3.4e38; got '$LR'"
check_number SEED whole "$SEED"
check_number GPU whole "$GPU"
declare -a extra=() samples=()
if [[ -n ${N_SAMPLES:-} ]]; then
    check_number N_SAMPLES whole "$N_SAMPLES"
    samples=(--n_samples "$N_SAMPLES")
fi
for name in EPOCHS BATCH_SIZE N_SAMPLES; do
    [[ -z ${!name:-} || ${!name} == *[1-9]* ]] || die "$name must be at least 1; got '${!name}'"
done
check_extra extra "--model --dataset --epochs --batch-size --lr --seed --save-path --save-model --no-save-model \
    --data-dir --n-samples"
DATA=$(absolute "${DATA:-$REPOSITORY/CNN/data}")

choose_gpu "$GPU"
get_python

new_tasks "$OUTDIR"
add_task "$MODEL $DATASET lr_$LR n_${N_SAMPLES:-all} seed_$SEED" "" "$PYTHON" "$REPOSITORY/CNN/run_exp.py" \
    --model "$MODEL" --dataset "$DATASET" --data_dir "$DATA" "${samples[@]}" --epochs "$EPOCHS" \
    --batch_size "$BATCH_SIZE" --lr "$LR" --seed "$SEED" --save_path "$OUTDIR" --save_model "${extra[@]}"
then_run "$PYTHON" "$HERE/analysis/runs.py" "$OUTDIR"

echo "# CNN, $MODEL on $DATASET, learning rate $LR, ${N_SAMPLES:-all} training images, $EPOCHS epochs, seed $SEED"
echo "# on $DEVICE; results go to $OUTDIR"
run_tasks
