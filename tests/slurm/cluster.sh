#!/usr/bin/env bash
# A Slurm cluster of one node on loopback, for tests: no systemd, nothing outside of one folder.
#
#   cluster.sh install         Debian's packages, as root
#   cluster.sh start FOLDER    munged, slurmctld and slurmd, all their files in FOLDER; ready when it returns
#   cluster.sh stop FOLDER     ends all three and what they run
#
# Clients need SLURM_CONF=FOLDER/slurm.conf, and FOLDER/bin before the rest of PATH.
#
# The node says that it has 8 CPUs, 64 GB and 2 GPUs, so that profiles/slurm fits it as it stands; nothing holds a job to
# what it asked for (no cgroups).
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: needs root and apt-get" >&2
        exit 2
    fi
    if ! missing >/dev/null; then return; fi
    export DEBIAN_FRONTEND=noninteractive
    local options=(-qq -o Dpkg::Use-Pty=0 -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    apt-get "${options[@]}" update >/dev/null || true
    apt-get "${options[@]}" install --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
}

# Names the programs that are not there; succeeds if there are any.
missing() {
    local program found=1
    for program in munged slurmctld slurmd sbatch srun squeue scontrol; do
        if ! command -v "$program"  >/dev/null; then
            echo -n "$program "
            found=0
        fi
    done
    return $found
}

start() {
    local folder host controller node
    mkdir -p "$1"/{bin,state,spool,munge}
    folder=$(cd "$1" && pwd)
    chmod 700 "$folder/munge"
    host=$(hostname -s)
    read -r controller node <<<"$(free_ports)"
    cat >"$folder/slurm.conf" <<END
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
KillWait=20
ReturnToService=2
MpiDefault=none
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
END
    printf 'Name=gpu File=%s\n' /dev/null /dev/zero >"$folder/gres.conf" # devices that every machine has
    : >"$folder/plugstack.conf"
    clients "$folder"

    head -c 1024 /dev/urandom >"$folder/munge/key"
    chmod 600 "$folder/munge/key"
    export SLURM_CONF=$folder/slurm.conf
    # --force: its folder need not be open to others, who have no business here
    munged --force --num-threads=1 --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
        --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" 2>"$folder/munge.txt"
    slurmctld -c
    slurmd
    for _ in $(seq 100); do
        if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then return; fi
        sleep 0.2
    done
    echo "error: the node is not ready after 20 s; see $folder/*.log" >&2
    stop "$folder"
    exit 1
}

# Two programs that stand before Slurm's own in the cluster's FOLDER/bin.
clients() {
    # Snakemake's job step removes SLURM_CONF from the environment: its srun would look for the machine's own cluster.
    cat >"$1/bin/srun" <<END
#!/bin/sh
SLURM_CONF='$1/slurm.conf' exec '$(command -v srun)' "\$@"
END
    # Snakemake asks for --states=all after 1, 11, 21, ... seconds, which would be most of a test's time: the answer
    # comes as soon as one more job has ended. (Until it comes, Ctrl-C finds no job to cancel: remove this file to try that.)
    cat >"$1/bin/squeue" <<END
#!/bin/bash
export SLURM_CONF='$1/slurm.conf'
case " \$* " in *" --states=all "*) ;; *) exec '$(command -v squeue)' "\$@" ;; esac
for try in {1..100}; do
    answer=\$('$(command -v squeue)' "\$@") || exit
    ended=\$(grep -cvE '(PENDING|CONFIGURING|RUNNING|COMPLETING)\$' <<<"\$answer" || true)
    if [ "\$ended" != "\$(cat '$1/ended' 2>/dev/null || echo 0)" ]; then break; fi
    sleep 0.2
done
echo "\$ended" >'$1/ended'
echo "\$answer"
END
    chmod +x "$1"/bin/*
}

stop() {
    local folder file number
    folder=$(cd "$1" && pwd)
    export SLURM_CONF=$folder/slurm.conf
    timeout 10 scancel --quiet --full --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 50); do
        if [ -z "$(timeout 10 squeue --noheader 2>/dev/null)" ]; then break; fi
        sleep 0.2
    done
    for file in slurmd.pid slurmctld.pid munge/pid; do
        if number=$(cat "$folder/$file" 2>/dev/null) && kill "$number" 2>/dev/null; then
            for _ in $(seq 10); do
                kill -0 "$number" 2>/dev/null || break
                sleep 0.1
            done
            kill -9 "$number" 2>/dev/null || true
        fi
    done
}

free_ports() {
    python3 - <<'END'
import socket
sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
END
}

case "${1:-} $#" in
"install 1") install ;;
"start 2") start "$2" ;;
"stop 2") stop "$2" ;;
*)
    echo "usage: cluster.sh install | start FOLDER | stop FOLDER" >&2
    exit 2
    ;;
esac
