# shellcheck shell=bash
# Tasks: commands that may run in any order, each on its own and able to go on where it was. Source this file, then
#
#     new_tasks OUTDIR                    results go there: run folders, tasks.sh with the list of tasks, logs/
#     add_task "wave/adam n_100" "wave/adam/c_{1,2}/n_100/seed_0" python run_experiment.py --num_res 100 ...
#     then_run python maps.py OUTDIR      what to do with the results when all tasks are through
#     run_tasks                           as LAUNCH says, then what then_run said
#
# LAUNCH=print   shows the tasks, one line each, which anyone can copy and run
# LAUNCH=local   runs them here, JOBS at a time (default: the number of GPUs, else of cores), see pool.sh
# LAUNCH=slurm   submits them as job arrays, see slurm.sh
# LAUNCH=auto    slurm where sbatch answers, else local
#
# tasks.sh keeps the tasks of earlier calls too; delete the lines that are no longer wanted. A task that ended well is
# not started again while its command is the same and all its runs are there.
#
# What the exit code of a task means: 0 done, 1 failed, 2 bad input, 3 another process holds it, 75 interrupted and
# saved. run_tasks returns 75 when interrupted, else 1, 2 or 3 for the gravest that occurred, else 0.

EXPERIMENTS=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$EXPERIMENTS/setup.sh"
declare -a task_labels=() task_runs=() task_lines=()
task_then=""
# shellcheck source-path=SCRIPTDIR source=pool.sh
source "$EXPERIMENTS/pool.sh"
# shellcheck source-path=SCRIPTDIR source=slurm.sh
source "$EXPERIMENTS/slurm.sh"

LAUNCHES="auto slurm local print"

die() {
    echo "error: $*" >&2
    exit 2
}

# ---- settings ----------------------------------------------------------------------------------------------------

# environment_only SCRIPT ARGUMENT...: settings are variables; --help shows the comment at the head of the script.
environment_only() {
    (($# > 1)) || return 0
    [[ $2 == -h || $2 == --help ]] || die "settings are environment variables, not arguments (--help); got '$2'"
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$1"
    exit 0
}

# absolute PATH: relative to the caller's working directory.
absolute() {
    local path=$1
    [[ $path == /* ]] || path=$PWD/$path
    echo "${path%/}"
}

# check_choice NAME "ALLOWED ..." VALUE...
check_choice() {
    local value
    local -A seen=()
    (($# > 2)) || die "$1 is empty; allowed: $2"
    for value in "${@:3}"; do
        [[ -z ${seen["x$value"]:-} ]] || die "$1: '$value' is given twice"
        seen["x$value"]=1
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

# check_count NAME: the variable, where it is set, is a whole number from 1 to 9999.
check_count() {
    [[ -z ${!1:-} || ${!1} =~ ^[1-9][0-9]{0,3}$ ]] || die "$1 must be a whole number from 1 to 9999; got '${!1}'"
}

# check_thresholds: THRESHOLDS, of the maps.
check_thresholds() {
    local number='-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?'
    [[ $THRESHOLDS =~ ^(percentile|table5|common|$number,$number)$ ]] ||
        die "THRESHOLDS must be percentile, table5, common or T_TRAIN,T_TEST; got '$THRESHOLDS'"
}

# check_extra ARRAY "FLAG ...": EXTRA as words, without the flags that the script gives itself.
check_extra() {
    local word flag
    local -n words=$1
    words=()
    split_words "$1" "${EXTRA:-}"
    for word in "${words[@]}"; do
        word=${word%%=*}
        for flag in $2; do
            [[ ${word//_/-} != "${flag//_/-}" ]] || die "EXTRA: $word is given by this script; see --help for its variable"
        done
    done
}

# check_launch DEFAULT ["ALLOWED ..."]: LAUNCH, and what belongs to it, before any work.
check_launch() {
    LAUNCH=${LAUNCH:-$1}
    check_choice LAUNCH "${2:-$LAUNCHES}" "$LAUNCH"
    check_count JOBS
    check_slurm_settings
    case $LAUNCH in
        auto)
            LAUNCH=local
            if [[ -n ${SLURM_JOB_ID:-} ]]; then
                echo "# LAUNCH=auto: inside SLURM job $SLURM_JOB_ID, training here (LAUNCH=slurm submits)"
            elif slurm_answers; then
                LAUNCH=slurm
                echo "# LAUNCH=auto: SLURM answers, submitting to it (LAUNCH=local trains here)"
            else
                echo "# LAUNCH=auto: no SLURM answers, training here"
            fi
            ;;
        slurm) slurm_answers || die "LAUNCH=slurm: $slurm_problem" ;;
    esac
}

# get_python: nothing is installed for a look.
get_python() {
    if [[ $LAUNCH == print ]]; then
        choose_python || PYTHON=$VENV/bin/python
    else
        use_environment
    fi
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

# ---- words -------------------------------------------------------------------------------------------------------

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

# choices WORD...: {a,b,c}, or the word alone.
choices() {
    local IFS=,
    if (($# > 1)); then echo "{$*}"; else echo "$1"; fi
}

# folder_values NUMBER...: as run folders have them, shortest: 30, 0.5, 1e-05.
folder_values() {
    printf '%s\n' "$@" | awk '{
        for (digits = 1; digits < 17 && sprintf("%." digits "g", $1) != $1 + 0; digits++);
        split(sprintf("%." (digits - 1) "e", $1), part, "e")
        decimals = digits - 1 - part[2]
        if (part[2] >= -4 && part[2] < 16) print sprintf("%." (decimals > 0 ? decimals : 0) "f", $1)
        else print part[1] "e" part[2]
    }'
}

# expand_braces PATTERN: the words that lists in braces stand for, one a line.
expand_braces() {
    local word head tail
    local -a words
    if [[ $1 =~ ^([^{]*)\{([^}]*)\}(.*)$ ]]; then
        head=${BASH_REMATCH[1]} tail=${BASH_REMATCH[3]}
        IFS=, read -ra words <<<"${BASH_REMATCH[2]}"
        for word in "${words[@]}"; do expand_braces "$head$word$tail"; done
    else
        echo "$1"
    fi
}

# ---- tasks -------------------------------------------------------------------------------------------------------

new_tasks() {
    RESULTS=$1
    task_labels=() task_runs=() task_lines=() task_then=""
}

# add_task LABEL RUNS COMMAND...: the label starts the progress lines of the command, where it prints any. RUNS: its run
# folders below RESULTS, lists in braces; empty: unknown, the task is then started at every call.
add_task() {
    task_labels+=("$1")
    task_runs+=("$2")
    task_lines+=("$(quote "${@:3}")")
}

then_run() { task_then=$(quote "$@"); }

# load_tasks FILE: what print_tasks wrote.
load_tasks() {
    local line comment
    while IFS= read -r line || [[ -n $line ]]; do
        case $line in
            '# then: '*) task_then=${line#\# then: } ;;
            '#'*) ;;
            *'  # '*)
                comment=${line##*  # }
                task_labels+=("${comment%% | *}")
                task_lines+=("${line%  # *}")
                [[ $comment == *' | '* ]] || comment="x | "
                task_runs+=("${comment#* | }")
                ;;
        esac
    done <"$1"
}

# task_text TASK: its line.
task_text() { echo "${task_lines[$1]}  # ${task_labels[$1]}${task_runs[$1]:+ | ${task_runs[$1]}}"; }

print_tasks() {
    local task
    for task in "${!task_lines[@]}"; do task_text "$task"; done
    [[ -z $task_then ]] || echo "# then: $task_then"
}

# write_tasks: into RESULTS/tasks.sh, among the tasks of earlier calls.
write_tasks() {
    local file=$RESULTS/tasks.sh lock task line label
    local -A number=()
    { mkdir -p -- "$RESULTS/logs" && : >>"$RESULTS/logs/.lock"; } 2>/dev/null || die "OUTDIR: cannot write $RESULTS"
    exec {lock}>>"$RESULTS/logs/.lock"
    ! command -v flock >/dev/null || flock "$lock"
    for task in "${!task_lines[@]}"; do number[${task_labels[task]}]=$task; done
    if {
        [[ ! -e $file ]] || while IFS= read -r line; do
            label=${line##*  # } label=${label%% | *}
            if [[ $line == *'  # '* && -n ${number[$label]:-} ]]; then
                task_text "${number[$label]}"
                unset "number[$label]"
            elif [[ $line != '# then: '* ]]; then
                echo "$line"
            fi
        done <"$file"
        for task in "${!task_lines[@]}"; do
            [[ -z ${number[${task_labels[task]}]:-} ]] || task_text "$task"
        done
        [[ -z $task_then ]] || echo "# then: $task_then"
    } >"$file.$$.tmp"; then mv -- "$file.$$.tmp" "$file"; else die "OUTDIR: cannot write $file"; fi
    exec {lock}>&-
}

# log_of TASK, status_of TASK: its output, and how it stands: "running ...", "exit CODE"; the time; its command.
log_of() { echo "$RESULTS/logs/${task_labels[$1]//[^A-Za-z0-9_.=-]/_}.log"; }
status_of() { local log && log=$(log_of "$1") && echo "${log%.log}.status"; }

# note_status TASK WORDS
note_status() {
    local file
    file=$(status_of "$1")
    printf '%s\n%(%F %T)T\n%s\n' "$2" -1 "${task_lines[$1]}" >"$file.$$.tmp" && mv -- "$file.$$.tmp" "$file"
}

# task_is_done TASK: it ended well with this very command, and its runs are there.
task_is_done() {
    local run
    local -a status=() runs
    [[ -n ${task_runs[$1]} && " ${task_lines[$1]} " != *" --force "* ]] || return 1
    mapfile -t status 2>/dev/null <"$(status_of "$1")" || return 1
    [[ ${status[0]:-} == "exit 0" && ${status[2]:-} == "${task_lines[$1]}" ]] || return 1
    mapfile -t runs < <(expand_braces "${task_runs[$1]}")
    for run in "${runs[@]}"; do
        [[ -e $RESULTS/$run/metrics.json ]] || return 1
    done
}

# pending_tasks: the numbers of those that are not done, one a line.
pending_tasks() {
    local task
    for task in "${!task_lines[@]}"; do
        task_is_done "$task" || echo "$task"
    done
}

run_tasks() {
    local code=0
    case $LAUNCH in
        print)
            print_tasks
            return
            ;;
        slurm)
            write_tasks
            submit_tasks
            return
            ;;
        local)
            write_tasks
            run_pool || code=$?
            ;;
    esac
    if [[ -n $task_then ]] && ((code != 75)); then
        echo
        bash -c "exec $task_then" || code=$((code ? code : 1))
    fi
    return "$code"
}
