#!/usr/bin/env bash
# A SLURM of one node on this machine, for the tests marked slurm. As root, on Debian or Ubuntu:
#   apt-get install -y slurmctld slurmd slurm-client munge
#   tests/slurm.sh start | stop
# Leaves a SLURM that runs already as it is, and stops only what it started.
set -euo pipefail
folder=${SLURM_TEST_FOLDER:-/tmp/slurm-for-tests}
name=$(hostname -s)

answers() {
    sinfo --noheader --format %T 2>/dev/null | grep -q -E 'idle|mixed|alloc'
}

start() {
    if answers; then
        echo "a SLURM runs here already"
        exit 0
    fi
    mkdir -p "$folder"/{state,spool} /etc/slurm /run/munge
    cat >/etc/slurm/slurm.conf <<EOF
ClusterName=tests
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=2,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=10
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN
PartitionName=tests Nodes=$name Default=YES MaxTime=INFINITE State=UP
EOF
    chown -R munge:munge /run/munge /etc/munge
    if ! munge -n >/dev/null 2>&1; then
        su -s /bin/sh munge -c /usr/sbin/munged
        touch "$folder/our-munged"
    fi
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if answers; then exit 0; fi
        sleep 0.5
    done
    echo "SLURM did not come up; see the logs in $folder" >&2
    exit 1
}

stop() {
    for daemon in slurmd slurmctld; do
        if [ -f "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" || true; fi
        rm -f "$folder/$daemon.pid"
    done
    if [ -f "$folder/our-munged" ]; then kill "$(cat /run/munge/munged.pid)" || true; fi
    rm -f "$folder/our-munged"
}

case "${1:-}" in
start) start ;;
stop) stop ;;
*) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac
