#!/bin/bash
# A Slurm cluster of virtual nodes on this machine, in a folder of its own, for tests and for trying a batch script.
#     tools/slurm_loopback.sh up               start munged, slurmctld and a slurmd a node; wait until all nodes are idle
#     tools/slurm_loopback.sh run SCRIPT …     sbatch SCRIPT …, wait for it, print its output; its exit code (starts and ends the cluster if none is up)
#     tools/slurm_loopback.sh env              shell lines that point sbatch, srun, squeue … at the cluster: eval "$(tools/slurm_loopback.sh env)"
#     tools/slurm_loopback.sh down             end all jobs and daemons, remove the folder
#
# The machine's own munge and Slurm, if it has them, are left alone: the key, the sockets and the ports are this cluster's.
# What a virtual node is not: it has no cores, memory or /dev/shm of its own.  Hence no cgroups, and MPI talks TCP.
#
# AM_SLURM_DIR      its folder [/tmp/automodel-slurm-UID]; two clusters need two folders
# AM_SLURM_NODES    nodes, named n1, n2, … [2]
# AM_SLURM_CPUS     CPUs that each claims to have [2]
# AM_SLURM_MEMORY   MiB that each claims to have [4000]
# AM_SLURM_GRACE    seconds that a job of partition "all" has when one of partition "urgent" takes its nodes [20]
# AM_SLURM_TASK     Slurm's TaskPlugin [task/none]; task/affinity binds tasks to this machine's cores
# AM_SLURM_TIMEOUT  seconds after which Slurm looks at a silent node as dead, roughly [30]
# AM_SLURM_PRIVATE  a folder of which each node sees its own, empty one, like a local disk (needs root and mount namespaces)
#
# Exit codes: automodel's where this script fails itself: 2 usage, 4 something is missing (the sentence says what).
set -euo pipefail

dir=${AM_SLURM_DIR:-/tmp/automodel-slurm-$(id -u)}
nodes=${AM_SLURM_NODES:-2}
cpus=${AM_SLURM_CPUS:-2}
memory=${AM_SLURM_MEMORY:-4000}
grace=${AM_SLURM_GRACE:-20}
task=${AM_SLURM_TASK:-task/none}
silence=${AM_SLURM_TIMEOUT:-30}
export PATH=$PATH:/usr/sbin:/sbin
export SLURM_CONF=$dir/slurm.conf

starting=no
die() {
    echo "slurm_loopback.sh: $*" >&2
    [ $starting = no ] || down
    exit 4
}

need() {
    local p
    for p in munged slurmctld slurmd srun sbatch sinfo; do
        command -v "$p" >/dev/null || die "$p is not installed; apt-get install slurm-wlm munge (tools/packages.sh slurm does)"
    done
}

# Ports BASE … BASE+nodes, of which none answers.
free_ports() {
    local try base p taken
    for try in $(seq 50); do
        base=$((20000 + (RANDOM % 400) * 100))
        taken=no
        for p in $(seq $base $((base + nodes))); do
            (: <>"/dev/tcp/127.0.0.1/$p") 2>/dev/null && taken=yes
        done
        [ $taken = no ] && { echo $base; return; }
    done
    die "no $((nodes + 1)) free ports in a row were found"
}

write_conf() {
    local base host user i # cred_expire: a requeued job waits that long, 120 s by default
    base=$(free_ports)
    host=$(hostname -s)
    user=$(id -un)
    cat >"$SLURM_CONF" <<EOF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$base
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=6
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmdLogFile=$dir/slurmd.%n.log
SlurmdSpoolDir=$dir/spool.%n
TmpFS=$dir/tmp.%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=$task
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SwitchType=switch/none
MailProg=/bin/true
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=$silence
InactiveLimit=0
KillWait=2
MessageTimeout=$((silence < 10 ? silence : 10))
TCPTimeout=1
MinJobAge=600
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EOF
    echo "CgroupPlugin=cgroup/v1" >"$dir/cgroup.conf" # unused; version 2, the default, wants to see /sys/fs/cgroup even so
    for i in $(seq "$nodes"); do
        mkdir -p "$dir/spool.n$i" "$dir/tmp.n$i"
        echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((base + i)) CPUs=$cpus RealMemory=$memory State=UNKNOWN" >>"$SLURM_CONF"
    done
    echo "PartitionName=all Nodes=ALL Default=YES PriorityTier=1 GraceTime=$grace" >>"$SLURM_CONF"
    echo "PartitionName=urgent Nodes=ALL PriorityTier=2" >>"$SLURM_CONF"
}

# One node of the cluster; also what a test calls to bring a killed node back.
start_node() {
    local here=()
    [ -z "${AM_SLURM_PRIVATE:-}" ] || here=(unshare --mount sh -c 'mount -t tmpfs none "$0" && exec "$@"' "$AM_SLURM_PRIVATE")
    "${here[@]}" slurmd -f "$SLURM_CONF" -N "$1" -c || die "slurmd $1 does not start: $(tail -n 2 "$dir/slurmd.$1.log" 2>/dev/null)"
}

wait_idle() {
    local until=$((SECONDS + 60)) n
    while n=$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l); [ "$n" -lt "$nodes" ]; do
        if [ $SECONDS -ge $until ]; then
            sinfo -N -l >&2 || true
            tail -n 5 "$dir"/*.log >&2
            die "only $n of $nodes nodes are idle after 60 s; the logs are in $dir"
        fi
        sleep 0.2
    done
}

up() {
    need
    if [ -e "$SLURM_CONF" ] && scontrol ping 2>/dev/null | grep -q 'is UP'; then
        echo "slurm_loopback.sh: a cluster is up in $dir already" >&2
        return
    fi
    down
    starting=yes
    mkdir -p -m 755 "$dir" "$dir/state"
    head -c 128 /dev/urandom >"$dir/munge.key"
    chmod 600 "$dir/munge.key"
    write_conf
    munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" \
        --seed-file="$dir/munged.seed" 2>"$dir/munged.start" || die "munged does not start: $(tail -n 2 "$dir/munged.start" "$dir/munged.log" 2>/dev/null)"
    slurmctld -f "$SLURM_CONF" -c || die "slurmctld does not start: $(tail -n 2 "$dir/slurmctld.log" 2>/dev/null)"
    local i
    for i in $(seq "$nodes"); do start_node "n$i"; done
    wait_idle
    starting=no
}

# The daemons of this cluster, and the processes in which they run its jobs.
ours() {
    local p line
    for p in /proc/[0-9]*; do
        line=$({ tr '\0' ' ' <"$p/cmdline"; } 2>/dev/null) || continue
        case $line in
            "slurmd -f $SLURM_CONF "* | "slurmctld -f $SLURM_CONF "* | "munged "*" --key-file=$dir/munge.key "*) echo "${p#/proc/}" ;;
            slurmstepd:*) ! grep -qzxF "SLURM_CONF=$SLURM_CONF" "$p/environ" 2>/dev/null || echo "${p#/proc/}" ;;
        esac
    done
}

down() {
    [ -d "$dir" ] || return 0
    local until=$((SECONDS + 15)) pids
    if [ -e "$SLURM_CONF" ] && scontrol ping 2>/dev/null | grep -q 'is UP'; then
        scancel --state=PENDING -u "$(id -un)" 2>/dev/null || true
        scancel -u "$(id -un)" 2>/dev/null || true
        while [ -n "$(squeue -h 2>/dev/null)" ] && [ $SECONDS -lt $until ]; do sleep 0.2; done
    fi
    pids=$(ours)
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill $pids 2>/dev/null || true
    while pids=$(ours); [ -n "$pids" ]; do
        # shellcheck disable=SC2086
        [ $SECONDS -lt $until ] || kill -9 $pids 2>/dev/null || true
        sleep 0.1
    done
    rm -rf "$dir"
}

print_env() {
    [ -e "$SLURM_CONF" ] || die "no cluster is up in $dir"
    cat <<EOF
export SLURM_CONF=$SLURM_CONF
export OMPI_MCA_btl=self,tcp OMPI_MCA_btl_tcp_if_include=lo
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
EOF
}

run() {
    [ $# -gt 0 ] || { echo "slurm_loopback.sh: run what?  run SCRIPT [arguments]" >&2; exit 2; }
    local own=no rc=0 out
    { [ -e "$SLURM_CONF" ] && scontrol ping 2>/dev/null | grep -q 'is UP'; } || { own=yes; up; }
    eval "$(print_env)"
    out=$(mktemp "$dir/out.XXXXXX")
    sbatch --wait --output="$out" --open-mode=append "$@" || rc=$?
    cat "$out"
    [ $own = no ] || down
    return $rc
}

case ${1:-} in
    up | down) "$1" ;;
    env) print_env ;;
    run) shift; run "$@" ;;
    node) start_node "${2:?slurm_loopback.sh: node NAME}" ;;
    -h | --help) sed -n '2,/^set -/p' "$0" | sed '$d; s/^# \{0,1\}//' ;;
    *) echo "slurm_loopback.sh: up, down, env or run SCRIPT; --help says more" >&2; exit 2 ;;
esac
