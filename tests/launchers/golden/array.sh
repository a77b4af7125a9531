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
restarts=${SLURM_RESTART_COUNT:-0}
notes=$launch/exits/$SLURM_JOB_ID.$restarts
mkdir -p "$notes"
event() { # start or end, exit code, what comes next
  printf '{"at": %s, "job": %s, "restarts": %s, "nodes": "%s", "event": "%s", "code": %s, "next": "%s"}\n' \
    "$(date +%s)" "$SLURM_JOB_ID" "$restarts" "$SLURM_JOB_NODELIST" "$@" >> "$launch/events-$SLURM_ARRAY_TASK_ID.jsonl"
}
event start null run
trap 'event end $? end' ERR # a set-up that fails would fail again: no requeue

export NCCL_DEBUG=WARN
export NCCL_IB_HCA=mlx5
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1

export PYTHONPATH=$launch/code${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 MPLUG2_EXIT_NOTES=$notes
# Named here, since a container has no scontrol.
: "${MASTER_ADDR:=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
export MASTER_ADDR MASTER_PORT=$((20000 + (SLURM_JOB_ID + 97 * restarts) % 10000))

code=0
srun \
  --kill-on-bad-exit=1 \
  --cpus-per-task=12 \
  --unbuffered \
  --open-mode=append \
  --output=/shared/study/shards/launches/0001/logs/%A_%a.log \
  sh -c 'exec python3 -m megatron_mplug2.cli data shard --part "$SLURM_ARRAY_TASK_ID/8" "$@"' sh listing 'it'"'"'s $(touch obeyed)' --out b || code=$?

# A rank that ends takes the others with it, and srun then tells of those that it killed: what a rank said itself weighs more.
if [ "$code" -ne 0 ]; then
  for said in 2 65 85; do
    if grep -qsx "$said" "$notes"/*; then
      code=$said
      break
    fi
  done
fi
case $code in
  0 | 2 | 65) next=end ;;
  *) if [ "$restarts" -lt 20 ]; then next=requeue; else next=limit; fi ;;
esac
# A job that was cancelled or preempted meanwhile is not this script's to start again.
if [ $next = requeue ] && [ "$(squeue --noheader --jobs "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" --format %T)" != RUNNING ]; then next=end; fi
event end "$code" $next
if [ $next = limit ]; then echo "error: started 20 times again, which is requeue_limit: not requeued" >&2; fi
if [ $next = requeue ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
exit "$code"
