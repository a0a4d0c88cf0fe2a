# shellcheck shell=bash disable=SC2154 # task_lines and its like come from lib.sh
# The local pool: tasks on this machine, JOBS at a time, GPUs dealt out in turn. Sourced by lib.sh.

declare -a pool_pid=() pool_task=() pool_told=() pool_start=() pool_code=() pool_gpus=()
pool_stop="" pool_said="" pool_interrupts=0 pool_lines=0 pool_skipped=0 pool_live=false

visible_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr -d ' ' <<<"${CUDA_VISIBLE_DEVICES//,/$'\n'}" | grep -vxe '' -e '-1' || true
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+' || true
    fi
}

run_pool() {
    local total=${#task_lines[@]} next=0 cores jobs slot shown=-1
    local -a queue
    pool_began=$SECONDS
    mapfile -t queue < <(pending_tasks)
    pool_skipped=$((total - ${#queue[@]}))
    mapfile -t pool_gpus < <(visible_gpus)
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    jobs=${JOBS:-$((${#pool_gpus[@]} ? ${#pool_gpus[@]} : cores))}
    ((jobs <= ${#queue[@]})) || jobs=${#queue[@]}
    pool_threads=$((jobs && cores > jobs ? cores / jobs : 1))
    pool_pid=() pool_task=() pool_told=() pool_start=() pool_code=()
    pool_stop="" pool_said="" pool_interrupts=0 pool_lines=0 pool_live=false
    [[ -t 1 && ${TERM:-dumb} != dumb ]] && pool_live=true
    if ((jobs)); then
        echo "$total tasks$( ((!pool_skipped)) || echo ", $pool_skipped done already"), $jobs at a time, threads each:" \
            "$pool_threads, GPUs: ${pool_gpus[*]:-none}; logs in $RESULTS/logs"
    fi

    # Handlers only note the signal; the loop below acts on it, so that no task slips through between two lines.
    trap 'pool_stop=SIGINT; ((++pool_interrupts))' INT
    trap 'pool_stop=SIGTERM' TERM
    trap 'pool_stop=SIGHUP' HUP
    trap 'pool_stop=SIGUSR1' USR1
    while :; do
        for ((slot = 0; slot < jobs && next < ${#queue[@]}; slot++)); do
            [[ -z $pool_stop && -z ${pool_pid[slot]:-} ]] && start_task "$slot" "${queue[next++]}"
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
    note_status "$task" "running on $(uname -n) as process $!"
}

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
        note_status "$task" "exit $code"
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
    local code finished=$pool_skipped failed=0
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
    ((result == 0)) || echo "cell by cell: bash $(quote "$EXPERIMENTS/status.sh" "$RESULTS")"
    if [[ -n $pool_stop ]] && ((finished + failed < $1)); then
        echo "interrupted ($pool_stop): run the same command again to go on"
        return 75
    fi
    return "$result"
}
