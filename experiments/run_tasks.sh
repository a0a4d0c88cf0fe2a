#!/usr/bin/env bash
# What is not done of the tasks of a results folder: those that failed, were interrupted or never ran.
#
#     bash experiments/run_tasks.sh results/pinn_paper
#     LAUNCH=local JOBS=2 bash experiments/run_tasks.sh results/pinn_paper
#
# The tasks are the lines of tasks.sh in the folder, which the sweeps write. Variables (defaults in brackets):
#     LAUNCH   slurm: submit to SLURM | local: train here | print: show the commands | auto: slurm where it answers,
#              else local  [auto]
#     JOBS     tasks at a time, with local  [number of GPUs, else of cores]
#     MAX_PARALLEL, GRES, CPUS, MEM, TIME   with slurm, see sweep_pinn.sh --help
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

(($# == 1)) || die "one results folder is needed, the OUTDIR of a sweep (--help)"
if [[ $1 == -h || $1 == --help ]]; then
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit 0
fi
results=$(absolute "$1")
[[ -e $results/tasks.sh ]] || die "RESULTS: no tasks.sh in $1; a sweep writes it"
check_launch auto
new_tasks "$results"
load_tasks "$results/tasks.sh"
run_tasks
