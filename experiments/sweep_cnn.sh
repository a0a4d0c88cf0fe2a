#!/usr/bin/env bash
# ResNet-18 on CIFAR: every learning rate x number of training images x seed, into run folders; then the tail exponents
# of step lengths against the learning rate (the ResNet half of the paper's Fig. 14), or the maps. CIFAR is downloaded
# by the first task that needs it; where that fails, the task says where to put the archive.
#
#     bash experiments/sweep_cnn.sh
#     SCALE=paper bash experiments/sweep_cnn.sh
#     OPT=sgd N_SAMPLES="5000 50000" LRS="0.05 0.1" SEEDS="0 1 2" EXTRA="--epochs 100" LAUNCH=print ...
#
# Variables (defaults in brackets):
#     OPT      trajectory: plain SGD to a small loss, then the lengths of 200 steps (CNN/train_trajectories.py) |
#              sgd: as published, with momentum, weight decay and cosine schedule (CNN/run_exp.py) | both  [trajectory]
#     MODEL    ResNet18, or with fewer channels ResNet18_w32 | ResNet18_w16 | ResNet18_w8
#              [ResNet18_w8; ResNet18 with SCALE=paper]
#     DATASET  CIFAR-10 | CIFAR-100  [CIFAR-10]
#     SCALE    smoke: 2 learning rates, an epoch or two, a minute or two with the data there | laptop: 4 learning rates,
#              1000 images (sgd: and 4000), half an hour on two cores by estimate | paper: 8 learning rates, 3 seeds,
#              all images, for GPUs  [laptop]
#     LAUNCH   slurm: submit to SLURM | local: train here | print: show the commands | auto: slurm where it answers,
#              else local  [auto]
#     JOBS     tasks at a time, with local  [number of GPUs, else of cores]
#     MAX_PARALLEL   tasks at a time, with slurm  [16]
#     GRES, CPUS, MEM, TIME   of a task, with slurm; none leaves one out  [gpu:1, 8, 32G, 4:00:00; sbatch's SBATCH_*
#              variables stand in for them, and are the place for account, partition, constraint ...]
#     OUTDIR   where run folders, logs, table and pictures go  [results/cnn_SCALE in the repository; with another MODEL
#              than that of SCALE results/cnn_SCALE_MODEL]
#     DATA     folder of the data, 170 MB to download for either  [CNN/data in the repository]
#     LRS      the learning rates, the physical axis
#     N_SAMPLES   the data axis, training images
#     SEEDS    of the weights, the order and the augmentation; LRS, N_SAMPLES and SEEDS default to the grid of SCALE
#     THRESHOLDS   of the maps of sgd: percentile | common | T_TRAIN,T_TEST  [percentile]
#     EXTRA    more flags of the command, quoted as in a shell; --no-verify: data of one's own in CIFAR's file format.
#              With OPT=both only flags that both commands have
#     PYTHON   the Python to use  [see experiments/setup.sh]
#
# One task is one learning rate and number of images: all seeds, one after another. Interrupted and started again, the
# sweep goes on where it was and does only what is missing. How it stands: bash experiments/status.sh OUTDIR
set -euo pipefail

HERE=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$HERE/lib.sh"

environment_only "${BASH_SOURCE[0]}" "$@"

MODELS="ResNet18 ResNet18_w32 ResNet18_w16 ResNet18_w8"
OPT=${OPT:-trajectory} DATASET=${DATASET:-CIFAR-10} SCALE=${SCALE:-laptop} THRESHOLDS=${THRESHOLDS:-percentile}

declare -A NETWORKS=([smoke]=ResNet18_w8 [laptop]=ResNet18_w8 [paper]=ResNet18)
declare -A RATES=([smoke]="0.1 0.8" [laptop]="0.1 0.2 0.4 0.8" [paper]="0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8")
declare -A IMAGES=(
    [smoke trajectory]="200" [laptop trajectory]="1000" [paper trajectory]="50000"
    [smoke sgd]="100 200" [laptop sgd]="1000 4000" [paper sgd]="50000"
)
declare -A REPEATS=([smoke]="0" [laptop]="0" [paper]="0 1 2")
# Few images need more epochs to a small loss and smaller batches; a look at all test images takes longer than an epoch.
declare -A FLAGS=(
    [laptop trajectory]="--max_epochs 250 --log_every 25" [laptop sgd]="--batch_size 32 --log_every 5"
)
declare -A COMMANDS=([trajectory]=train_trajectories.py [sgd]=run_exp.py)
declare -A ONLY=([trajectory]="--loss --max-epochs --steps" [sgd]="--schedule --epochs --visualize --type")

check_launch auto
check_choice SCALE "smoke laptop paper" "$SCALE"
check_choice OPT "trajectory sgd both" "$OPT"
strategies=("$OPT")
[[ $OPT != both ]] || strategies=(trajectory sgd)
MODEL=${MODEL:-${NETWORKS[$SCALE]}}
check_choice MODEL "$MODELS" "$MODEL"
check_choice DATASET "CIFAR-10 CIFAR-100" "$DATASET"
check_thresholds
[[ $THRESHOLDS != table5 ]] || die "THRESHOLDS=table5: the table has no row for ResNets"
LRS=${LRS:-${RATES[$SCALE]}} SEEDS=${SEEDS:-${REPEATS[$SCALE]}}
check_numbers LRS any "$LRS"
check_numbers SEEDS whole "$SEEDS"
read -ra rates <<<"$LRS"
for rate in "${rates[@]}"; do
    awk "BEGIN { exit !($rate > 0 && $rate <= 3.4e38) }" 2>/dev/null ||
        die "LRS: a learning rate is positive and at most 3.4e38; got '$rate'"
done
mapfile -t rates < <(folder_values "${rates[@]}")
check_choice LRS "${rates[*]}" "${rates[@]}"
read -ra seeds <<<"$SEEDS"
mapfile -t seeds < <(folder_values "${seeds[@]}")
check_choice SEEDS "${seeds[*]}" "${seeds[@]}"
if [[ -n ${N_SAMPLES:-} ]]; then
    check_numbers N_SAMPLES whole "$N_SAMPLES"
    for n in $N_SAMPLES; do
        ((10#$n > 0)) || die "N_SAMPLES must be at least 1; got '$n'"
    done
fi
declare -a extra=()
check_extra extra "--model --dataset --data-dir --n-samples --lr --seed --save-path --budget"
if [[ $OPT == both ]]; then
    for word in "${extra[@]}"; do
        word=${word%%=*}
        for strategy in "${strategies[@]}"; do
            [[ " ${ONLY[$strategy]} " != *" ${word//_/-} "* ]] ||
                die "EXTRA: with OPT=both a flag must be one of both commands; $word is only one of OPT=$strategy"
        done
    done
fi
folder=cnn_$SCALE
[[ $MODEL == "${NETWORKS[$SCALE]}" ]] || folder+=_$MODEL
OUTDIR=$(absolute "${OUTDIR:-$REPOSITORY/results/$folder}")
DATA=$(absolute "${DATA:-$REPOSITORY/CNN/data}")

get_python

new_tasks "$OUTDIR"
system=${DATASET,,} system=${system/-/}
for strategy in "${strategies[@]}"; do
    read -ra flags <<<"${FLAGS[$SCALE $strategy]:-}"
    # Many images take longest: begin with them, so that the tasks end together.
    mapfile -t amounts < <(tr -s ' \t' '\n' <<<"${N_SAMPLES:-${IMAGES[$SCALE $strategy]}}" | grep . | sort -rnu)
    for n in "${amounts[@]}"; do
        n=$((10#$n))
        for rate in "${rates[@]}"; do
            add_task "$system/$strategy lr_$rate n_$n" \
                "${MODEL,,}/$system/$strategy/lr_$rate/n_$n/seed_$(choices "${seeds[@]}")" \
                "$PYTHON" "$REPOSITORY/CNN/${COMMANDS[$strategy]}" --model "$MODEL" --dataset "$DATASET" \
                --data_dir "$DATA" --n_samples "$n" --lr "$rate" --seed "${seeds[@]}" --budget "$SCALE" \
                --save_path "$OUTDIR" "${flags[@]}" "${extra[@]}"
        done
    done
done
tails=("$PYTHON" "$HERE/analysis/tails.py" "$OUTDIR")
maps=("$PYTHON" "$HERE/analysis/maps.py" "$OUTDIR" --strategy sgd --thresholds "$THRESHOLDS")
case $OPT in
    trajectory) then_run "${tails[@]}" ;;
    sgd) then_run "${maps[@]}" ;;
    both) then_run bash -c "$(quote "${tails[@]}"); code=\$?; echo; $(quote "${maps[@]}") && exit \$code" ;;
esac

echo "# $MODEL on $DATASET, $OPT, scale $SCALE: ${#task_lines[@]} tasks (learning rate x images); results go to" \
    "$OUTDIR, data in $DATA"
run_tasks
