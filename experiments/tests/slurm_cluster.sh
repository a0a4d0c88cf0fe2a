#!/usr/bin/env bash
# A SLURM cluster of one node for the tests, on this machine: daemons, logs and state in one folder, no systemd, no
# cgroups, nothing in /etc.
#
#     bash slurm_cluster.sh start DIR PORT      then: export SLURM_CONF=DIR/slurm.conf
#     bash slurm_cluster.sh stop DIR PORT
#
# DIR is absolute and short (a socket goes there), PORT and PORT + 1 are free. The node claims 8 CPUs, 16 GB and two GPUs,
# whatever the machine has. Exit code 3: SLURM is not installed (Debian, Ubuntu: apt install slurm-wlm munge).
set -euo pipefail
umask 022 # munge refuses folders that others may write to
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

(($# == 3)) || { echo "usage: slurm_cluster.sh start|stop DIR PORT" >&2 && exit 2; }
DIR=$2 PORT=$3
export SLURM_CONF=$DIR/slurm.conf

write_configuration() {
    local node user k
    node=$(hostname -s) user=$(id -un)
    # A GPU that SLURM can hand out needs a path of its own.
    for k in 0 1; do ln -s /dev/null "$DIR/gpu$k"; done
    printf 'AutoDetect=off\nNodeName=%s Name=gpu File=%s/gpu[0-1]\n' "$node" "$DIR" >"$DIR/gres.conf"
    # Newer releases look for cgroups even so; older ones do not know the word.
    [[ $(slurmd -V) == *" 2"[0-2].* ]] || echo "CgroupPlugin=disabled" >"$DIR/cgroup.conf"
    cat >"$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$DIR/munge.socket
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
MailProg=/bin/true
# Without cgroups: with them half there, jobs would be called completed that never ran.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
# Refuse what can never run, start arrays at once, kill soon; arrays of at most four, so that sweeps need several.
EnforcePartLimits=ALL
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=15
MaxArraySize=4
NodeName=$node NodeAddr=127.0.0.1 Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 CPUs=8 RealMemory=16000 Gres=gpu:2 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
    local k
    for k in sbatch slurmctld slurmd munged; do
        command -v "$k" >/dev/null || { echo "SLURM is not installed here: no $k" >&2 && exit 3; }
    done
    mkdir -p "$DIR"/{state,spool}
    (umask 077 && head -c 1024 /dev/urandom >"$DIR/munge.key")
    write_configuration
    # Daemons must not keep the caller's pipes open.
    {
        munged --key-file="$DIR/munge.key" --socket="$DIR/munge.socket" --pid-file="$DIR/munged.pid" \
            --log-file="$DIR/munged.log" --seed-file="$DIR/munged.seed"
        slurmctld -f "$SLURM_CONF"
        slurmd -f "$SLURM_CONF"
    } </dev/null >"$DIR/start.log" 2>&1 || failed "a daemon did not start"
    for ((k = 0; k < 150; k++)); do
        [[ $(timeout 5 sinfo -h -o %T 2>/dev/null) != idle ]] || return 0
        sleep 0.2
    done
    failed "the node did not become idle"
}

failed() {
    tail -n 20 "$DIR"/*.log >&2
    echo "$1" >&2
    exit 1
}

stop() {
    local name pid k
    # Jobs first: they would outlive the daemons.
    timeout 10 scancel -u "$(id -un)" 2>/dev/null || true
    for ((k = 0; k < 75; k++)); do
        [[ -n $(timeout 5 squeue -h 2>/dev/null) ]] || break
        sleep 0.2
    done
    for name in slurmd slurmctld munged; do
        pid=$(cat "$DIR/$name.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || continue
        for ((k = 0; k < 50; k++)); do
            [[ -e /proc/$pid && $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null) != Z ]] || break
            sleep 0.1
        done
    done
}

case $1 in
    start) start ;;
    stop) stop ;;
    *) echo "usage: slurm_cluster.sh start|stop DIR PORT" >&2 && exit 2 ;;
esac
