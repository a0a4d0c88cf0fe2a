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
    ((${#values[@]})) || die "$1 is empty; give $kind with blanks between them"
    for value in "${values[@]}"; do
        [[ $value =~ $pattern ]] || die "$1 must be $kind with blanks between them; got '$value' in '$3'"
    done
}

# check_launch: LAUNCH and JOBS, before any work.
check_launch() {
    check_choice LAUNCH "$LAUNCHES" "$LAUNCH"
    [[ -z ${JOBS:-} || $JOBS =~ ^[1-9][0-9]{0,3}$ ]] || die "JOBS must be a whole number from 1 to 9999; got '$JOBS'"
}

# split_words TEXT: sets WORDS, split as a shell does, quotes honoured, nothing expanded.
split_words() {
    local text
    WORDS=()
    [[ $1 =~ [^[:space:]] ]] || return 0
    text=$(xargs printf '%s\n' <<<"$1" 2>/dev/null) || die "unbalanced quotes: $1"
    mapfile -t WORDS <<<"$text"
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
pool_stop="" pool_interrupts=0 pool_lines=0 pool_live=false

visible_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr ', ' '\n\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -vxe '' -e '-1' || true
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+' || true
    fi
}

run_pool() {
    local total=${#task_lines[@]} next=0 cores jobs slot shown=-1
    pool_logs=$(dirname -- "$TASKS_FILE")/logs
    mkdir -p -- "$pool_logs" || die "OUTDIR: cannot write $(dirname -- "$TASKS_FILE")"
    print_tasks >"$TASKS_FILE.$$.tmp" && mv -- "$TASKS_FILE.$$.tmp" "$TASKS_FILE" || die "OUTDIR: cannot write $TASKS_FILE"
    mapfile -t pool_gpus < <(visible_gpus)
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    jobs=${JOBS:-$((${#pool_gpus[@]} ? ${#pool_gpus[@]} : cores))}
    ((jobs <= total)) || jobs=$total
    pool_threads=$((jobs && cores > jobs ? cores / jobs : 1))
    pool_pid=() pool_task=() pool_told=() pool_start=() pool_code=()
    pool_stop="" pool_interrupts=0 pool_lines=0 pool_live=false
    [[ -t 1 && ${TERM:-dumb} != dumb ]] && pool_live=true
    echo "$total tasks, $jobs at a time, ${pool_threads} threads each, GPUs: ${pool_gpus[*]:-none}; logs in $pool_logs"

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
        sleep 0.5 </dev/null >/dev/null 2>&1 &
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
    log=$(log_of "$task")
    pool_task[slot]=$task pool_start[slot]=$SECONDS pool_told[slot]=""
    $pool_live || echo "start    ${task_labels[task]}"
    (
        export OMP_NUM_THREADS=$pool_threads
        ((${#pool_gpus[@]} == 0)) || export CUDA_VISIBLE_DEVICES=${pool_gpus[slot % ${#pool_gpus[@]}]}
        $pool_live && export PROGRESS_EVERY=2
        echo "--- $(date '+%F %T') ${task_lines[task]}"
        exec setsid bash -c "exec ${task_lines[task]}"
    ) </dev/null >>"$log" 2>&1 &
    pool_pid[slot]=$!
}

log_of() { echo "$pool_logs/${task_labels[$1]//[^A-Za-z0-9_.=-]/_}.log"; }

# Ask the running tasks to save and end; at a second Ctrl-C end them.
stop_tasks() {
    local slot number=TERM
    ((pool_interrupts < 2)) || number=KILL
    for slot in "${!pool_pid[@]}"; do
        if [[ ${pool_told[slot]} != "$number" ]]; then
            kill -s "$number" -- "-${pool_pid[slot]}" 2>/dev/null ||
                kill -s "$number" "${pool_pid[slot]}" 2>/dev/null || true
            [[ -n ${pool_told[*]// /} ]] || event "$pool_stop: asking the running tasks to save and end (Ctrl-C: end now)"
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
        case $code in
            0) how="done    " ;;
            3) how="held    " ;;
            75) how="stopped " ;;
            *) how="FAILED  " ;;
        esac
        pool_code[task]=$code
        unset "pool_pid[slot]"
        event "$how $label ($((SECONDS - pool_start[slot])) s$( ((code == 0 || code == 75)) || echo ", exit code $code, see $(log_of "$task")"))"
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
    local code done=0 failed=0
    for code in "${pool_code[@]}"; do
        case $code in 0) ((++done)) ;; 75) ;; *) ((++failed)) ;; esac
    done
    echo "$done $failed"
}

# show_pool TOTAL: how many are done, and the last line of each running log.
show_pool() {
    local rows columns done failed slot label line text
    read -r rows columns < <(stty size <&1 2>/dev/null || echo 24 80)
    ((rows > 3 && columns > 20)) || rows=24 columns=80
    read -r done failed < <(count_codes)
    printf -v text 'tasks done %d/%d, failed %d, %d:%02d min\n' \
        "$done" "$1" "$failed" $((SECONDS / 60)) $((SECONDS % 60))
    local lines=1
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
    local done failed task code result=0
    read -r done failed < <(count_codes)
    echo "tasks done $done/$1, failed $failed"
    for task in "${!pool_code[@]}"; do
        code=${pool_code[task]}
        case $code in
            0 | 75) continue ;;
            3) echo "held by another process: ${task_labels[task]}, $(log_of "$task")" ;;
            *) echo "failed with exit code $code: ${task_labels[task]}, $(log_of "$task")" ;;
        esac
        tail -n 5 -- "$(log_of "$task")" | sed 's/^/    /'
        case $code in
            2 | 3) ((result == 1 || result == 2)) || result=$code ;;
            *) result=1 ;;
        esac
    done
    if [[ -n $pool_stop ]] && ((done + failed < $1)); then
        echo "interrupted ($pool_stop): run the same command again to go on"
        return 75
    fi
    return "$result"
}
