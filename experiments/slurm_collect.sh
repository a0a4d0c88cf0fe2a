#!/usr/bin/env bash
# The last job of a sweep: slurm_collect.sh RESULTS says how it stands and draws what there is, also after failures.
set -uo pipefail

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

main() {
    local code=0
    new_tasks "$1"
    load_tasks "$1/tasks.sh"
    date '+--- %F %T'
    bash "$EXPERIMENTS/status.sh" "$1" || code=$?
    if [[ -n $task_then ]]; then
        echo
        bash -c "exec $task_then" || code=$((code ? code : 1))
    fi
    exit "$code"
}

main "$@"
