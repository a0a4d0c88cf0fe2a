# shellcheck shell=bash
# Tasks: commands that may run in any order, each on its own and able to go on where it was. Source this file, then
#
#     new_tasks OUTDIR/tasks.sh           the file that will list them; logs go to OUTDIR/logs
#     add_task "wave/adam n_100" python run_experiment.py --num_res 100 ...
#     run_tasks                           what LAUNCH says
#
# LAUNCH=print   shows the tasks, one line each, which anyone can copy and run
# LAUNCH=local   runs them here, JOBS at a time (default: the number of GPUs, else of cores)
#
# What the exit code of a task means: 0 done, 1 failed, 2 bad input, 3 another process holds it, 75 interrupted and
# saved. run_tasks returns 75 when interrupted, else 1, 2 or 3 for the gravest that occurred, else 0.

LAUNCH=${LAUNCH:-local}
LAUNCHES="local print"

declare -a task_labels=() task_lines=()

die() {
    echo "error: $*" >&2
    exit 2
}

# absolute PATH: relative to the caller's working directory.
absolute() { if [[ $1 == /* ]]; then echo "$1"; else echo "$PWD/$1"; fi; }

# check_choice NAME "ALLOWED ..." VALUE...
check_choice() {
    local value
    (($# > 2)) || die "$1 is empty; allowed: $2"
    for value in "${@:3}"; do
        [[ " $2 " == *" $value "* && $value != *" "* ]] || die "$1 must be one of: $2; got '$value'"
    done
}

# check_numbers NAME whole|any "VALUE ..."
check_numbers() {
    local value pattern='^[0-9]+$' kind="whole numbers"
    local -a values
    read -ra values <<<"$3"
    [[ $2 == whole ]] || { pattern='^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$' kind=numbers; }
    ((${#values[@]})) || die "$1 is empty; allowed: $kind"
    for value in "${values[@]}"; do
        [[ $value =~ $pattern ]] || die "$1: allowed are $kind; got '$value'"
    done
}

# check_number NAME whole|any VALUE
check_number() {
    [[ $3 != *[[:space:]]* ]] || die "$1 must be a single number; got '$3'"
    check_numbers "$@"
}

# check_launch: LAUNCH and JOBS, before any work.
check_launch() {
    check_choice LAUNCH "$LAUNCHES" "$LAUNCH"
    [[ -z ${JOBS:-} || $JOBS =~ ^[1-9][0-9]{0,3}$ ]] || die "JOBS must be a whole number from 1 to 9999; got '$JOBS'"
}

# choose_gpu K: train on the K-th visible GPU only, where there is one. DEVICE: what that is, in words.
# shellcheck disable=SC2034  # read by the scripts that source this file
choose_gpu() {
    local -a gpus
    mapfile -t gpus < <(visible_gpus)
    DEVICE="the CPU"
    if (($1 < ${#gpus[@]})); then
        DEVICE="GPU $1"
        export CUDA_VISIBLE_DEVICES=${gpus[$1]}
    elif ((${#gpus[@]})); then
        DEVICE="the CPU, as there is no GPU $1"
        export CUDA_VISIBLE_DEVICES=""
    fi
}

# split_words ARRAY TEXT: split as a shell does, quotes honoured, nothing expanded.
split_words() {
    local text
    [[ $2 =~ [^[:space:]] ]] || return 0
    text=$(xargs printf '%s\n' <<<"$2" 2>/dev/null) || die "unbalanced quotes: $2"
    mapfile -t "$1" <<<"$text"
}

# quote WORD...: one line that a shell reads back as these words.
quote() {
    local word text="" mark="'\\''"
    for word in "$@"; do
        if [[ $word == *[[:cntrl:]]* ]]; then
            printf -v word %q "$word"
        elif [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            word="'${word//\'/"$mark"}'"
        fi
        text+="$word "
    done
    echo "${text% }"
}

new_tasks() {
    TASKS_FILE=$1
    task_labels=() task_lines=()
}

# add_task LABEL COMMAND...: the label starts the progress lines of the command, where it prints any.
add_task() {
    task_labels+=("$1")
    task_lines+=("$(quote "${@:2}")")
}

run_tasks() {
    check_launch
    case $LAUNCH in
        print) print_tasks ;;
        local) run_pool ;;
    esac
}

print_tasks() {
    local i
    for i in "${!task_lines[@]}"; do
        echo "${task_lines[i]}  # ${task_labels[i]}"
    done
}

# ---- the local pool ----------------------------------------------------------------------------------------------

declare -a pool_pid=() pool_task=() pool_told=() pool_start=() pool_code=() pool_gpus=()
pool_stop="" pool_said="" pool_interrupts=0 pool_lines=0 pool_live=false

visible_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr -d ' ' <<<"${CUDA_VISIBLE_DEVICES//,/$'\n'}" | grep -vxe '' -e '-1' || true
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+' || true
    fi
}

run_pool() {
    local total=${#task_lines[@]} next=0 cores jobs slot shown=-1
    pool_began=$SECONDS
    pool_logs=$(dirname -- "$TASKS_FILE")/logs
    mkdir -p -- "$pool_logs" || die "OUTDIR: cannot write $(dirname -- "$TASKS_FILE")"
    { print_tasks >"$TASKS_FILE.$$.tmp" && mv -- "$TASKS_FILE.$$.tmp" "$TASKS_FILE"; } ||
        die "OUTDIR: cannot write $TASKS_FILE"
    mapfile -t pool_gpus < <(visible_gpus)
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    jobs=${JOBS:-$((${#pool_gpus[@]} ? ${#pool_gpus[@]} : cores))}
    ((jobs <= total)) || jobs=$total
    pool_threads=$((jobs && cores > jobs ? cores / jobs : 1))
    pool_pid=() pool_task=() pool_told=() pool_start=() pool_code=()
    pool_stop="" pool_said="" pool_interrupts=0 pool_lines=0 pool_live=false
    [[ -t 1 && ${TERM:-dumb} != dumb ]] && pool_live=true
    echo "$total tasks, $jobs at a time, threads each: $pool_threads, GPUs: ${pool_gpus[*]:-none}; logs in $pool_logs"

    # Handlers only note the signal; the loop below acts on it, so that no task slips through between two lines.
    trap 'pool_stop=SIGINT; ((++pool_interrupts))' INT
    trap 'pool_stop=SIGTERM' TERM
    trap 'pool_stop=SIGHUP' HUP
    trap 'pool_stop=SIGUSR1' USR1
    while :; do
        for ((slot = 0; slot < jobs && next < total; slot++)); do
            [[ -z $pool_stop && -z ${pool_pid[slot]:-} ]] && start_task "$slot" $((next++))
        done
        ((${#pool_pid[@]})) || break
        [[ -z $pool_stop ]] || stop_tasks
        if $pool_live && ((shown != SECONDS)); then
            show_pool "$total"
            shown=$SECONDS
        fi
        # A signal ends this wait at once, a task within half a second.
        sleep 0.5 >/dev/null 2>&1 &
        wait $! || true
        reap_tasks
    done
    trap - INT TERM HUP USR1
    erase_pool
    summarise "$total"
}

# start_task SLOT TASK: in a session of its own, so that Ctrl-C reaches it once, from stop_tasks.
start_task() {
    local slot=$1 task=$2 log
    local -a settings=("OMP_NUM_THREADS=$pool_threads")
    ((${#pool_gpus[@]} == 0)) || settings+=("CUDA_VISIBLE_DEVICES=${pool_gpus[slot % ${#pool_gpus[@]}]}")
    $pool_live && settings+=("PROGRESS_EVERY=2")
    log=$(log_of "$task")
    pool_task[slot]=$task pool_start[slot]=$SECONDS pool_told[slot]=""
    $pool_live || echo "start    ${task_labels[task]}"
    (
        echo "--- $(date '+%F %T') ${task_lines[task]}"
        exec setsid env "${settings[@]}" bash -c "exec ${task_lines[task]}"
    ) </dev/null >>"$log" 2>&1 &
    pool_pid[slot]=$!
}

log_of() { echo "$pool_logs/${task_labels[$1]//[^A-Za-z0-9_.=-]/_}.log"; }

# Ask the running tasks to save and end; at a second Ctrl-C end them.
stop_tasks() {
    local slot number=TERM what="asking the running tasks to save and end (Ctrl-C: end them now)"
    ((pool_interrupts < 2)) || number=KILL what="ending the running tasks; what they saved stays"
    for slot in "${!pool_pid[@]}"; do
        if [[ ${pool_told[slot]} != "$number" ]]; then
            kill -s "$number" -- "-${pool_pid[slot]}" 2>/dev/null ||
                kill -s "$number" "${pool_pid[slot]}" 2>/dev/null || true
            [[ $pool_said == "$number" ]] || event "$pool_stop: $what"
            pool_said=$number
            pool_told[slot]=$number
        fi
    done
}

# Note how the tasks ended that have ended.
reap_tasks() {
    local slot task code label how
    for slot in "${!pool_pid[@]}"; do
        kill -0 "${pool_pid[slot]}" 2>/dev/null && continue
        wait "${pool_pid[slot]}" && code=0 || code=$?
        task=${pool_task[slot]} label=${task_labels[pool_task[slot]]}
        # A task that is asked to end before it can save ends by the signal.
        [[ -n ${pool_told[slot]} ]] && ((code == 143 || code == 137)) && code=75
        how="$label ($((SECONDS - pool_start[slot])) s)"
        case $code in
            0) event "done     $how" ;;
            3) event "held     $how by another process, see $(log_of "$task")" ;;
            75) event "stopped  $how" ;;
            *) event "FAILED   $how with exit code $code, see $(log_of "$task")" ;;
        esac
        pool_code[task]=$code
        unset "pool_pid[slot]"
        ((code == 75)) && pool_stop=${pool_stop:-"a task was interrupted"}
    done
}

# ---- what the pool shows -----------------------------------------------------------------------------------------

# event TEXT: a line that stays, above those that are refreshed.
event() {
    erase_pool
    echo "$1"
}

erase_pool() {
    ((pool_lines == 0)) || printf '\033[%dA\033[J' "$pool_lines"
    pool_lines=0
}

count_codes() {
    local code finished=0 failed=0
    for code in "${pool_code[@]}"; do
        case $code in 0) ((++finished)) ;; 75) ;; *) ((++failed)) ;; esac
    done
    echo "$finished $failed"
}

# show_pool TOTAL: how many are done, and the last line of each running log.
show_pool() {
    local rows columns finished failed slot label line text lines=1 seconds=$((SECONDS - pool_began))
    read -r rows columns < <(stty size <&1 2>/dev/null || echo 24 80)
    ((rows > 3 && columns > 20)) || rows=24 columns=80
    read -r finished failed < <(count_codes)
    printf -v text 'tasks done %d/%d, failed %d, %d:%02d min\n' \
        "$finished" "$1" "$failed" $((seconds / 60)) $((seconds % 60))
    for slot in "${!pool_pid[@]}"; do
        label=${task_labels[pool_task[slot]]}
        line=$(last_line "$(log_of "${pool_task[slot]}")")
        [[ $line != '---'* && -n $line ]] || line=starting
        [[ $line == "$label"* ]] || line="$label: $line"
        ((++lines < rows)) || break # more would scroll and could not be taken back
        text+="  ${line:0:columns-3}"$'\n'
    done
    erase_pool
    printf '%s' "$text"
    pool_lines=$((lines < rows ? lines : rows - 1))
}

# last_line FILE: without control characters; a bar's carriage return begins a new line.
last_line() {
    local -a lines
    local i line
    mapfile -t lines < <(tail -c 2000 -- "$1" 2>/dev/null | tail -n 3 | tr -d '\000')
    for ((i = ${#lines[@]} - 1; i >= 0; i--)); do
        line=${lines[i]%$'\r'}
        line=${line##*$'\r'}
        line=${line//[[:cntrl:]]/}
        [[ -z $line ]] || break
    done
    echo "$line"
}

# summarise TOTAL: the end, with the last lines of each log of a failed task.
summarise() {
    local finished failed task code result=0
    read -r finished failed < <(count_codes)
    echo "tasks done $finished/$1, failed $failed"
    for task in "${!pool_code[@]}"; do
        code=${pool_code[task]}
        case $code in
            0 | 75) continue ;;
            3) echo "held by another process: ${task_labels[task]}, $(log_of "$task")" ;;
            *) echo "failed with exit code $code: ${task_labels[task]}, $(log_of "$task")" ;;
        esac
        tail -n 5 -- "$(log_of "$task")" | sed '/^--- /d; s/^/    /'
        case $code in
            2 | 3) ((result == 1 || result == 2)) || result=$code ;;
            *) result=1 ;;
        esac
    done
    if [[ -n $pool_stop ]] && ((finished + failed < $1)); then
        echo "interrupted ($pool_stop): run the same command again to go on"
        return 75
    fi
    return "$result"
}
