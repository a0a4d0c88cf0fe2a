# shellcheck shell=bash disable=SC2154 # task_lines and its like come from lib.sh
# Tasks as SLURM job arrays. Sourced by lib.sh.
#
# Variables, with the values for one A100 a task; `none` leaves an option out. Where sbatch's own variable for the same
# thing is set (SBATCH_GRES, SBATCH_TIMELIMIT, SBATCH_MEM_PER_NODE ...), ours keeps silent unless it is given. All other
# settings of the site are sbatch's variables: SBATCH_ACCOUNT, SBATCH_PARTITION, SBATCH_QOS, SBATCH_CONSTRAINT ...
#
#     GRES          [gpu:1]       CPUS          [8]
#     MEM           [32G]         TIME          [4:00:00]; a task that needs longer saves, and goes on in the next turn
#     MAX_PARALLEL  tasks at a time  [16]
#
# A task is element K of an array; RESULTS/logs/slurm holds the list of tasks of every submission (never changed after
# it, while tasks.sh may be), what SLURM itself prints (JOB_K.out), and `jobs`: array job, first line of its list, number
# of tasks, list. Tasks that wait or run in the queue are not submitted again.

check_slurm_settings() {
    local name
    check_count MAX_PARALLEL
    [[ ${CPUS:-} == none ]] || check_count CPUS
    [[ ${MEM:-1} =~ ^([0-9]+[KMGT]?|none)$ ]] || die "MEM must be none or a size as sbatch's --mem, such as 32G; got '$MEM'"
    [[ ${TIME:-none} == none ]] || (($(minutes_of "$TIME") >= 5)) ||
        die "TIME must be none or a limit as sbatch's --time, such as 4:00:00, of 5 minutes or more: tasks are asked to" \
            "save 2 minutes before it; got '$TIME'"
    [[ ${GRES:-x} =~ ^[A-Za-z0-9_:,.-]+$ ]] || die "GRES must be none or as sbatch's --gres, such as gpu:1; got '$GRES'"
    for name in SBATCH_ARRAY_INX SBATCH_WAIT; do
        [[ -z ${!name:-} ]] || die "$name cannot be used with these scripts: unset it"
    done
}

# minutes_of TIME: of M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; 0 of anything else.
minutes_of() {
    local d=0 h=0 m=0
    if [[ $1 =~ ^([0-9]+)(:[0-9]+)?$ ]]; then
        m=${BASH_REMATCH[1]}
    elif [[ $1 =~ ^([0-9]+):([0-9]+):[0-9]+$ ]]; then
        h=${BASH_REMATCH[1]} m=${BASH_REMATCH[2]}
    elif [[ $1 =~ ^([0-9]+)-([0-9]+)(:([0-9]+)(:[0-9]+)?)?$ ]]; then
        d=${BASH_REMATCH[1]} h=${BASH_REMATCH[2]} m=${BASH_REMATCH[4]:-0}
    fi
    echo $(((10#$d * 24 + 10#$h) * 60 + 10#$m))
}

# slurm_answers: or says in slurm_problem why not. With its controller down a command would retry for a while.
# shellcheck disable=SC2034  # read by lib.sh
slurm_answers() {
    local said
    slurm_problem="sbatch is not on the PATH"
    command -v sbatch >/dev/null && command -v squeue >/dev/null || return 1
    said=$(timeout 15 sinfo -h 2>&1 >/dev/null) && return
    slurm_problem="no SLURM controller answers: ${said##*$'\n'}"
    return 1
}

# slurm_option FLAG OURS DEFAULT SBATCH_VARIABLE...: the flag, if it is to be given.
slurm_option() {
    local name value=$2
    if [[ -z $value ]]; then
        for name in "${@:4}"; do [[ -z ${!name:-} ]] || return 0; done
        value=$3
    fi
    [[ $value == none ]] || echo "$1=$value"
}

slurm_resources() {
    slurm_option --gres "${GRES:-}" gpu:1 SBATCH_GRES SBATCH_GPUS SBATCH_GPUS_PER_NODE SBATCH_GPUS_PER_TASK
    slurm_option --cpus-per-task "${CPUS:-}" 8 SBATCH_CPUS_PER_GPU SBATCH_CPUS_PER_TASK
    slurm_option --mem "${MEM:-}" 32G SBATCH_MEM_PER_NODE SBATCH_MEM_PER_GPU SBATCH_MEM_PER_CPU
    slurm_option --time "${TIME:-}" 4:00:00 SBATCH_TIMELIMIT
}

# tasks_in_queue: "LABEL JOB" of the tasks of RESULTS that wait or run, a tab between.
tasks_in_queue() {
    local folder=$RESULTS/logs/slurm job first count list k queue
    local -a labels
    local -A present=()
    [[ -s $folder/jobs ]] || return 0
    queue=$(timeout 60 squeue -h -r -u "$(id -un)" -o '%F_%K') || die "squeue does not tell what is queued; try again"
    while read -r k; do [[ -z $k ]] || present[$k]=1; done <<<"$queue"
    while read -r job first count list; do
        labels=()
        for ((k = 0; k < count; k++)); do
            [[ -n ${present[${job}_$k]:-} ]] || continue
            ((${#labels[@]})) || mapfile -t labels < <(sed 's/.*  # //; s/ | .*//' "$folder/$list")
            printf '%s\t%s\n' "${labels[first + k]}" "$job"
        done
    done <"$folder/jobs"
}

# submit OPTION... -- COMMAND...: prints the job's number; what sbatch says goes to stderr.
submit() {
    local said
    local -a options=()
    while [[ $1 != -- ]]; do options+=("$1") && shift; done
    # exec: the signal of --signal=B: is for the script itself.
    said=$(sbatch --parsable "${options[@]}" --wrap "exec $(quote "${@:2}")") || return 1
    said=${said##*$'\n'}
    [[ ${said%%;*} =~ ^[0-9]+$ ]] && echo "${BASH_REMATCH[0]}"
}

submit_tasks() {
    local folder=$RESULTS/logs/slurm list label job task first=0 count limit previous="" name=${RESULTS##*/} code=0 in_queue
    local -a pending wanted=() resources jobs=() options
    local -A queued=()
    mkdir -p -- "$folder" || die "OUTDIR: cannot write $folder"
    mapfile -t pending < <(pending_tasks)
    in_queue=$(tasks_in_queue) || return 2
    while IFS=$'\t' read -r label job; do [[ -z $label ]] || queued[$label]=$job; done <<<"$in_queue"
    for task in "${pending[@]}"; do
        job=${queued[${task_labels[task]}]:-}
        if [[ -z $job ]]; then wanted+=("$task"); elif [[ " ${jobs[*]} " != *" $job "* ]]; then jobs+=("$job"); fi
    done
    echo "${#task_lines[@]} tasks: $((${#task_lines[@]} - ${#pending[@]})) done," \
        "$((${#pending[@]} - ${#wanted[@]})) in the queue, ${#wanted[@]} to submit"
    if ((${#pending[@]} == 0)); then
        [[ -z $task_then ]] || bash -c "exec $task_then"
        return
    fi

    ((${#wanted[@]})) || return 0
    list=$(date +%Y%m%d-%H%M%S)-$$.tasks
    for task in "${wanted[@]}"; do task_text "$task"; done >"$folder/$list" || die "OUTDIR: cannot write $folder"
    limit=$(timeout 60 scontrol show config | sed -n 's/^MaxArraySize *= *\([0-9]*\).*/\1/p')
    mapfile -t resources < <(slurm_resources)
    while ((first < ${#wanted[@]})); do
        count=$((${#wanted[@]} - first))
        ((count <= ${limit:-1001})) || count=${limit:-1001}
        options=(--job-name="$name" --array="0-$((count - 1))%${MAX_PARALLEL:-16}" --requeue --signal=B:USR1@120
            --open-mode=append --output="${folder//%/%%}/%A_%a.out" "${resources[@]}")
        # One array after another: the throttle of each is that of all.
        [[ -z $previous ]] || options+=(--dependency="afterany:$previous")
        if ! job=$(submit "${options[@]}" -- bash "$EXPERIMENTS/slurm_task.sh" "$folder/$list" "$first"); then
            echo "error: sbatch refused tasks $((first + 1)) to ${#wanted[@]}: $(quote sbatch "${options[@]}")" >&2
            code=$((first ? 1 : 2))
            break
        fi
        echo "$job $first $count $list" >>"$folder/jobs"
        echo "array job $job: tasks $((first + 1)) to $((first + count)) of ${#wanted[@]}, at most" \
            "${MAX_PARALLEL:-16} at a time, ${resources[*]}"
        previous=$job
        jobs+=("$job")
        first=$((first + count))
    done
    if ((first)); then
        submit_collection "$name-collect" "${jobs[@]}"
        echo "how it stands: bash $(quote "$EXPERIMENTS/status.sh" "$RESULTS")"
    fi
    return "$code"
}

# submit_collection NAME JOB...: when the jobs are through, however they ended, say how it stands and draw.
submit_collection() {
    local job
    local -a options=(--job-name="$1" --dependency="afterany:$(IFS=: && echo "${*:2}")" --open-mode=append
        --output="${RESULTS//%/%%}/logs/collect.log")
    local -a command=(bash "$EXPERIMENTS/slurm_collect.sh" "$RESULTS")
    # Drawing needs no GPU, but there are partitions that take no job without one.
    if job=$(
        unset SBATCH_GRES SBATCH_GPUS SBATCH_GPUS_PER_NODE SBATCH_GPUS_PER_TASK SBATCH_CPUS_PER_GPU SBATCH_MEM_PER_GPU
        submit "${options[@]}" --time=1:00:00 --cpus-per-task=1 --mem=4G -- "${command[@]}" 2>/dev/null
    ) || job=$(submit "${options[@]}" "${resources[@]}" -- "${command[@]}"); then
        echo "job $job collects and draws at the end: $RESULTS/logs/collect.log"
    else
        echo "warning: sbatch refused the job that draws; at the end: $(quote "${command[@]}")" >&2
    fi
}
