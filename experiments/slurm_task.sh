#!/usr/bin/env bash
# One task of an array, run by SLURM: slurm_task.sh LIST FIRST runs line FIRST + SLURM_ARRAY_TASK_ID of the list.
#
# SIGUSR1, two minutes before the time limit, goes on to the task, which saves and exits with 75; the job then puts itself
# back into the queue. SIGTERM means that SLURM ends the job: it saves as well, but what follows (preempted: requeued;
# cancelled: not) is SLURM's to say.
set -uo pipefail

MOST_RESTARTS=200 # a task that saves without getting on would otherwise restart for ever

asked="" terminated=false pid=""
# shellcheck disable=SC2329  # called by the traps
forward() {
    asked=$1
    [[ -z $pid ]] || kill -s "$1" "$pid" 2>/dev/null
}
trap 'forward USR1' USR1
trap 'terminated=true; forward TERM' TERM

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# has_begun TASK: with --force it first removes the results of all its runs; one is missing since.
has_begun() {
    local run
    local -a runs
    mapfile -t runs < <(expand_braces "${task_runs[$1]}")
    for run in "${runs[@]}"; do
        [[ -n $run && -e $RESULTS/$run/metrics.json ]] || return 0
    done
    return 1
}

main() {
    local list=$1 task=$(($2 + SLURM_ARRAY_TASK_ID)) code=75 restarts=${SLURM_RESTART_COUNT:-0} command
    local job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID told=false tenths
    new_tasks "${list%/logs/slurm/*}"
    load_tasks "$list"
    [[ -n ${task_lines[task]:-} ]] || die "$list has no task $task"
    command=${task_lines[task]}
    ! { ((restarts)) && has_begun "$task"; } || command=${command/ --force/} # anew once, now it goes on
    export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
    echo "$(date '+%F %T') ${task_labels[task]} on $(uname -n), GPU ${CUDA_VISIBLE_DEVICES:-none}, restart $restarts"
    echo "--- $(date '+%F %T') job $job on $(uname -n): $command" >>"$(log_of "$task")"
    note_status "$task" "running on $(uname -n) as job $job"
    if [[ -z $asked ]]; then
        bash -c "exec $command" </dev/null >>"$(log_of "$task")" 2>&1 &
        pid=$!
        [[ -z $asked ]] || forward "$asked" # it came while there was nobody to tell
        while :; do
            asked=""
            wait "$pid" && code=0 || code=$?
            [[ -n $asked ]] || break
            told=true
            ((code > 128)) || break # else the signal ended the wait, not the task
        done
        # Asked before it could listen, it ended by the signal. A second wait for what has ended gives 127 or -1.
        $told && ((code < 0 || code == 127 || code == 138 || code == 143)) && code=75
    fi
    note_status "$task" "exit $code"
    echo "$(date '+%F %T') exit code $code"
    sleep 0.2 # SIGTERM may come to the task first
    if ((code == 75)) && ! $terminated; then
        if ((restarts >= MOST_RESTARTS)); then
            echo "saved, but restarted $restarts times already: not put back into the queue"
        elif scontrol requeue "$SLURM_JOB_ID"; then
            echo "saved and put back into the queue"
            # SLURM ends this job; one that ends by itself before that can be taken for completed.
            for ((tenths = 0; tenths < 600; tenths++)); do $terminated || sleep 0.1; done
        fi
    fi
    exit "$code"
}

main "$@"
