#!/bin/bash
#SBATCH --job-name=shards
#SBATCH --array=1-8%4
#SBATCH --chdir=/tmp
#SBATCH --output=/shared/study/shards/launches/0001/logs/%A_%a_batch.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=12
#SBATCH --time=1440
#SBATCH --partition=gpu
#SBATCH --signal=USR2@120
#SBATCH --requeue

# Written by `mplug2 launch`. What it does when the ranks have ended: launchers/batch_script.py of the project.
set -e -o pipefail
launch=/shared/study/shards/launches/0001
job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
restarts=${SLURM_RESTART_COUNT:-0}
reason= # of an end, ready for JSON
notes=$launch/exits/$SLURM_JOB_ID.$restarts
if ! { mkdir -p "$notes" && printf %65536d 0 > "$notes/.room" && : > "$notes/.room"; }; then
  echo "error: cannot write into $launch: run_dir must be on storage that the nodes share and that has room;"     "mplug2 jobs resume starts it again" >&2
  exit 2
fi
event() { # event, exit code, what comes next; which nodes, where not all; why
  printf '{"at": %s, "job": %s, "restarts": %s, "event": "%s", "code": %s, "next": "%s", "nodes": "%s", "why": "%s"}\n' \
    "$(date +%s)" "$SLURM_JOB_ID" "$restarts" "$1" "$2" "$3" "${4:-$SLURM_JOB_NODELIST}" "${5:-}" >> "$launch/events-$SLURM_ARRAY_TASK_ID.jsonl"
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
  if [ "$next" = requeue ] && [ "$restarts" -ge 20 ]; then next=limit; fi
  event end "$1" "$next" "" "$reason"
  if [ "$next" = limit ]; then echo "error: started 20 times again, which is requeue_limit: not requeued" >&2; fi
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

export NCCL_DEBUG=WARN
export NCCL_IB_HCA=mlx5
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1

port() { # of this start, by its use
  echo $((20000 + (SLURM_JOB_ID + 97 * restarts + $1) % 10000))
}
export PYTHONPATH=$launch/code${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 MPLUG2_EXIT_NOTES=$notes MPLUG2_LAUNCH=$launch
# Named here, since a container has no scontrol.
MPLUG2_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -s -d ' ')
: "${MASTER_ADDR:=${MPLUG2_NODES%% *}}"
export MPLUG2_NODES MASTER_ADDR MASTER_PORT=$(port 0)

code=0
# What srun itself tells is kept: who died first.
srun \
  --kill-on-bad-exit=1 \
  --cpus-per-task=12 \
  --unbuffered \
  --open-mode=append \
  --output=/shared/study/shards/launches/0001/logs/%A_%a.log \
  sh -c 'command -v "$1" > /dev/null || {
  why="$SLURMD_NODENAME cannot run $1: set python, or setup, in the cluster'"'"'s profile, or leave the node out by --exclude"
  echo "error: $why" >&2
  printf "127\nwhy: %s\n" "$(printf %s "$why" | sed '"'"'s/["\\]/\\&/g; s/[[:cntrl:]]/ /g'"'"')" > "$MPLUG2_EXIT_NOTES/$SLURM_PROCID"
  exit 127
}
shift
exec "$@"' sh python3 sh -c 'exec python3 -m megatron_mplug2.cli data shard --part "$SLURM_ARRAY_TASK_ID/8" "$@"' sh listing 'it'"'"'s $(touch obeyed)' --out b 2>&1 | (trap '' TERM; exec tee "$notes/.srun" >&2) || code=${PIPESTATUS[0]}

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
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ "$(grep -lsx 127 "$notes"/* | wc -l)" -eq 1 ]; then leave 2 end; fi
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
