#!/bin/bash
#SBATCH --job-name=large
#SBATCH --chdir=/shared/project
#SBATCH --output=/shared/runs/large/launches/0001/logs/%j_batch.log
#SBATCH --open-mode=append
#SBATCH --nodes=64
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=8
#SBATCH --mem=1024G
#SBATCH --time=2880
#SBATCH --partition=h100
#SBATCH --account=vision
#SBATCH --qos=long
#SBATCH --constraint='ib&nvme'
#SBATCH --exclude='node017,node[101-104]'
#SBATCH --signal=USR2@300
#SBATCH --requeue

# Written by `mplug2 launch`. What it does when the ranks have ended: launchers/batch_script.py of the project.
set -e -o pipefail
launch=/shared/runs/large/launches/0001
job=$SLURM_JOB_ID
restarts=${SLURM_RESTART_COUNT:-0}
reason= # of an end, ready for JSON
notes=$launch/exits/$SLURM_JOB_ID.$restarts
if ! { mkdir -p "$notes" && printf %65536d 0 > "$notes/.room" && : > "$notes/.room"; }; then
  echo "error: cannot write into $launch: run_dir must be on storage that the nodes share and that has room;"     "mplug2 jobs resume starts it again" >&2
  exit 2
fi
event() { # event, exit code, what comes next; which nodes, where not all; why
  printf '{"at": %s, "job": %s, "restarts": %s, "event": "%s", "code": %s, "next": "%s", "nodes": "%s", "why": "%s"}\n' \
    "$(date +%s)" "$SLURM_JOB_ID" "$restarts" "$1" "$2" "$3" "${4:-$SLURM_JOB_NODELIST}" "${5:-}" >> "$launch/events.jsonl"
}
taken() { # whether SLURM is ending the job itself; a controller that is away says nothing
  case $(squeue --noheader --jobs "$job" --format %T) in
    RUNNING | "") return 1 ;;
  esac
}
leave() { # exit code, requeue or end, nodes that the next start is to leave out
  local next=$2 excluded
  # A job that was cancelled or preempted meanwhile is not this script's to start again.
  if [ "$next" = requeue ] && taken; then next=taken; fi
  if [ "$next" = requeue ] && [ "$restarts" -ge 100 ]; then next=limit; fi
  event end "$1" "$next" "" "$reason"
  if [ "$next" = limit ]; then echo "error: started 100 times again, which is requeue_limit: not requeued" >&2; fi
  if [ "$next" = requeue ]; then
    trap '' TERM # comes with a requeue, and is not awaited
    for pause in 0 10 60 120 end; do
      if [ $pause = end ]; then
        echo "error: SLURM did not take the job back (see above): mplug2 jobs resume starts it again" >&2
        exit "$1"
      fi
      sleep $pause
      if scontrol requeue "$job"; then break; fi
    done
    if [ -n "${3:-}" ]; then # only a job that waits lets its nodes be chosen anew
      excluded=$(scontrol show job "$job" | sed -n 's/.*ExcNodeList=\([^ ]*\).*/\1/p' | grep -vx '(null)') || true
      scontrol update "JobId=$job" "ExcNodeList=${excluded:+$excluded,}$3" ||
        echo "error: SLURM does not leave $3 out of the next start (see above)" >&2
    fi
  fi
  exit "$1"
}
event start null run
asked= # by SLURM, which is about to kill this script: for it to tell of its end before, when its step has gone
trap asked=1 TERM
trap 'event end $? end' ERR # a set-up that fails would fail again: no requeue
if ! command -v scontrol > /dev/null; then
  echo "error: no scontrol on $SLURMD_NODENAME, by which this job is started again: a container belongs into the cluster's profile" >&2
  leave 2 end
fi

module load enroot
ulimit -n "$(ulimit -H -n)"
export NCCL_SOCKET_IFNAME=ib0
export NCCL_IB_TIMEOUT=22

port() { # of this start, by its use
  echo $((20000 + (SLURM_JOB_ID + 97 * restarts + $1) % 10000))
}
export PYTHONPATH=$launch/code${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 MPLUG2_EXIT_NOTES=$notes MPLUG2_LAUNCH=$launch
# Named here, since a container has no scontrol.
MPLUG2_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -s -d ' ')
: "${MASTER_ADDR:=${MPLUG2_NODES%% *}}"
export MPLUG2_NODES MASTER_ADDR MASTER_PORT=$(port 0)

# The nodes are looked at first: launchers/health.py. What they say comes through srun, which needs no folder.
rm -rf "$launch/health"
said=$(MASTER_PORT=$(port 48) timeout --kill-after=30 240 \
  srun \
  --cpus-per-task=16 \
  --container-image=registry.example/mplug2:1.0 \
  --container-mounts=/shared/project:/shared/project,/shared/runs/large:/shared/runs/large,/data:/data:ro \
  --container-workdir=/shared/project \
  --kill-on-bad-exit=0 \
  --wait=20 \
  sh -c 'said=$("$@")
code=$?
case $said in
  *"mplug2-health "*) printf "%s\n" "$said" ;;
  *)
    if [ $code -ne 137 ]; then
      echo "mplug2-health ill $SLURMD_NODENAME its check ended with $code and gave no verdict, see the log of the batch script"
    fi
    ;;
esac
exit $code' sh python3 -m launchers.health /shared/runs/large/launches/0001 --device=gpu --free-gb=1 --timeout-s=120) || true
rm -rf "$launch/health"
echo "$said" >&2
if [ -n "$asked" ]; then leave 143 requeue; fi
said=$(grep '^mplug2-health ' <<< "$said") || true
if [ "$(grep -c '^mplug2-health well ' <<< "$said")" -ne 512 ]; then
  bad=$(awk '$2 == "ill" {print $3}' <<< "$said" | sort -u)
  if [ -z "$bad" ]; then # then the node that most miss, where it is one
    bad=$(awk '$2 == "misses" {print $3}' <<< "$said" | sort | uniq -c | sort -rn |
      awk 'NR == 1 {most = $1; node = $2} NR == 2 && $1 == most {node = ""} END {print node}')
  fi
  why=$(awk -v bad="${bad%%$'\n'*}" '$2 != "well" && (bad == "" || $3 == bad) {print; exit}' <<< "$said" | cut -d ' ' -f 4-)
  : "${why:=no node has answered}"
  if [ -z "$bad" ]; then
    event unhealthy null requeue "" "$why"
    echo "error: the health check failed, and no node is surely to blame: $why" >&2
    leave 69 requeue
  elif [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ "$(wc -l <<< "$bad")" -eq "$SLURM_JOB_NUM_NODES" ]; then
    event unhealthy null end "" "$why"
    echo "error: the health check failed on every node: $why" >&2
    leave 69 end
  fi
  bad=$(paste -s -d , <<< "$bad")
  event unhealthy null exclude "$bad" "$why"
  echo "error: the health check failed, the next start leaves out $bad: $why" >&2
  leave 69 requeue "$bad"
fi

code=0
# What srun itself tells is kept: who died first.
srun \
  --kill-on-bad-exit=1 \
  --cpus-per-task=16 \
  --container-image=registry.example/mplug2:1.0 \
  --container-mounts=/shared/project:/shared/project,/shared/runs/large:/shared/runs/large,/data:/data:ro \
  --container-workdir=/shared/project \
  --unbuffered \
  --open-mode=append \
  --output=/shared/runs/large/launches/0001/logs/%j_%t.log \
  python3 -m megatron_mplug2.cli pretrain /shared/runs/large/launches/0001/config.yaml 2>&1 | (trap '' TERM; exec tee "$notes/.srun" >&2) || code=${PIPESTATUS[0]}

srun_said() { # the first error that begins so, but those that it ended itself
  sed -n '/: Terminated$/d; /^srun: error: '"$1"'/{s/^srun: error: //; s/["\]//g
    s/[[:cntrl:]]/ /g; s/: Killed$/& (out of memory?)/; p; q}' "$notes/.srun" || true
}
died=$(srun_said '[^ ]*: tasks* [0-9]')
if [ "$code" -ne 0 ]; then
  reason=$died
  : "${reason:=$(srun_said)}"
fi
# A rank that ends takes the others with it, and srun then tells of those that it killed: what a rank said itself weighs more.
for said in 2 65 86 85 75 127 1; do
  note=$(cd "$notes" && ls -tr | xargs -r grep -lsx "$said" | head -n 1) || true
  if [ -n "$note" ]; then # of the rank that said it first
    code=$said
    case "$said $died" in
      "1 "*": Killed"*) break ;; # it has lost a rank that could say nothing
    esac
    reason=$(sed -n 's/^why: //p' "$notes/$note")
    break
  fi
done
# Where no task on any of several nodes has its interpreter, none will have it the next time.
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ "$(grep -lsx 127 "$notes"/* | wc -l)" -eq 512 ]; then leave 2 end; fi
# srun is content, too, with ranks that SLURM takes away together with their node, and is so before SLURM tells of it.
if [ "$code" -eq 0 ] && ! grep -qsx 0 "$notes"/*; then
  echo "error: srun ended well, and no rank has said that it did" >&2
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if taken; then break; fi
    sleep 1
  done
  leave 143 requeue
fi
case $code in
  0 | 2 | 65) leave "$code" end ;;
  86)
    case $(scontrol show job "$SLURM_JOB_ID") in
      *PreemptTime=[0-9]*) leave "$code" requeue ;;
      *) leave "$code" end ;; # the time limit, which would come again
    esac
    ;;
  *) leave "$code" requeue ;;
esac
