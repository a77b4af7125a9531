"""The parts of a batch script that are the same for all jobs, for `str.format` by `launchers.batch_script`."""

BEGIN = """
# Written by `mplug2 launch`. What it does when the ranks have ended: launchers/batch_script.py of the project.
set -e -o pipefail
launch={folder}
job={job}
restarts=${{SLURM_RESTART_COUNT:-0}}
reason= # of an end, ready for JSON
notes=$launch/exits/$SLURM_JOB_ID.$restarts
if ! {{ mkdir -p "$notes" && printf %{room}d 0 > "$notes/.room" && : > "$notes/.room"; }}; then
  echo "error: cannot write into $launch: run_dir must be on storage that the nodes share and that has room;" \
    "mplug2 jobs resume starts it again" >&2
  exit {mistake}
fi
event() {{ # event, exit code, what comes next; which nodes, where not all; why
  printf '{{"at": %s, "job": %s, "restarts": %s, "event": "%s", "code": %s, "next": "%s", "nodes": "%s", "why": "%s"}}\\n' \\
    "$(date +%s)" "$SLURM_JOB_ID" "$restarts" "$1" "$2" "$3" "${{4:-$SLURM_JOB_NODELIST}}" "${{5:-}}" >> "$launch/{events}"
}}
taken() {{ # whether SLURM is ending the job itself; a controller that is away says nothing
  case $(squeue --noheader --jobs "$job" --format %T) in
    RUNNING | "") return 1 ;;
  esac
}}
leave() {{ # exit code, requeue or end, nodes that the next start is to leave out
  local next=$2 excluded
  # A job that was cancelled or preempted meanwhile is not this script's to start again.
  if [ "$next" = requeue ] && taken; then next=taken; fi
  if [ "$next" = requeue ] && [ "$restarts" -ge {limit} ]; then next=limit; fi
  event end "$1" "$next" "" "$reason"
  if [ "$next" = limit ]; then echo "error: started {limit} times again, which is requeue_limit: not requeued" >&2; fi
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
    if [ -n "${{3:-}}" ]; then # only a job that waits lets its nodes be chosen anew
      excluded=$(scontrol show job "$job" | sed -n 's/.*ExcNodeList=\\([^ ]*\\).*/\\1/p' | grep -vx '(null)') || true
      scontrol update "JobId=$job" "ExcNodeList=${{excluded:+$excluded,}}$3" ||
        echo "error: SLURM does not leave $3 out of the next start (see above)" >&2
    fi
  fi
  exit "$1"
}}
event start null run
asked= # by SLURM, which is about to kill this script: for it to tell of its end before, when its step has gone
trap asked=1 TERM
trap 'event end $? end' ERR # a set-up that fails would fail again: no requeue
if ! command -v scontrol > /dev/null; then
  echo "error: no scontrol on $SLURMD_NODENAME, by which this job is started again: a container belongs into the cluster's profile" >&2
  leave {mistake} end
fi
"""

MEETING = """
port() {{ # of this start, by its use
  echo $(({first} + (SLURM_JOB_ID + {stride} * restarts + $1) % {ports}))
}}
export PYTHONPATH=$launch/{code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1 {notes}=$notes {launch}=$launch
# Named here, since a container has no scontrol.
{nodes}=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | paste -s -d ' ')
: "${{MASTER_ADDR:=${{{nodes}%% *}}}}"
export {nodes} MASTER_ADDR MASTER_PORT=$(port 0)
"""

CHECK = """# The nodes are looked at first: launchers/health.py. What they say comes through srun, which needs no folder.
rm -rf "$launch/{probes}"
said=$(MASTER_PORT=$(port {offset}) timeout --kill-after=30 {limit} \\
  {step}) || true
rm -rf "$launch/{probes}"
echo "$said" >&2
if [ -n "$asked" ]; then leave {terminated} requeue; fi
said=$(grep '^{mark} ' <<< "$said") || true
if [ "$(grep -c '^{mark} well ' <<< "$said")" -ne {tasks} ]; then
  bad=$(awk '$2 == "ill" {{print $3}}' <<< "$said" | sort -u)
  if [ -z "$bad" ]; then # then the node that most miss, where it is one
    bad=$(awk '$2 == "misses" {{print $3}}' <<< "$said" | sort | uniq -c | sort -rn |
      awk 'NR == 1 {{most = $1; node = $2}} NR == 2 && $1 == most {{node = ""}} END {{print node}}')
  fi
  why=$(awk -v bad="${{bad%%$'\\n'*}}" '$2 != "well" && (bad == "" || $3 == bad) {{print; exit}}' <<< "$said" | cut -d ' ' -f 4-)
  : "${{why:=no node has answered}}"
  if [ -z "$bad" ]; then
    event unhealthy null requeue "" "$why"
    echo "error: the health check failed, and no node is surely to blame: $why" >&2
    leave {bad_node} requeue
  elif [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ "$(wc -l <<< "$bad")" -eq "$SLURM_JOB_NUM_NODES" ]; then
    event unhealthy null end "" "$why"
    echo "error: the health check failed on every node: $why" >&2
    leave {bad_node} end
  fi
  bad=$(paste -s -d , <<< "$bad")
  event unhealthy null exclude "$bad" "$why"
  echo "error: the health check failed, the next start leaves out $bad: $why" >&2
  leave {bad_node} requeue "$bad"
fi
"""

RANKS = """code=0
# What srun itself tells is kept: who died first.
{srun} 2>&1 | (trap '' TERM; exec tee "$notes/.srun" >&2) || code=${{PIPESTATUS[0]}}"""

END = """
srun_said() {{ # the first error that begins so, but those that it ended itself
  sed -n '/: Terminated$/d; /^srun: error: '"$1"'/{{s/^srun: error: //; s/["\\]//g
    s/[[:cntrl:]]/ /g; s/: Killed$/& (out of memory?)/; p; q}}' "$notes/.srun" || true
}}
died=$(srun_said '[^ ]*: tasks* [0-9]')
if [ "$code" -ne {finished} ]; then
  reason=$died
  : "${{reason:=$(srun_said)}}"
fi
# A rank that ends takes the others with it, and srun then tells of those that it killed: what a rank said itself weighs more.
for said in {said_last}; do
  note=$(cd "$notes" && ls -tr | xargs -r grep -lsx "$said" | head -n 1) || true
  if [ -n "$note" ]; then # of the rank that said it first
    code=$said
    case "$said $died" in
      "{failed} "*": Killed"*) break ;; # it has lost a rank that could say nothing
    esac
    reason=$(sed -n 's/^{why}//p' "$notes/$note")
    break
  fi
done
# Where no task on any of several nodes has its interpreter, none will have it the next time.
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && [ "$(grep -lsx {not_there} "$notes"/* | wc -l)" -eq {tasks} ]; then leave {mistake} end; fi
# srun is content, too, with ranks that SLURM takes away together with their node, and is so before SLURM tells of it.
if [ "$code" -eq {finished} ] && ! grep -qsx {finished} "$notes"/*; then
  echo "error: srun ended well, and no rank has said that it did" >&2
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if taken; then break; fi
    sleep 1
  done
  leave {terminated} requeue
fi
case $code in
  {final}) leave "$code" end ;;
  {cut_short})
    case $(scontrol show job "$SLURM_JOB_ID") in
      *PreemptTime=[0-9]*) leave "$code" requeue ;;
      *) leave "$code" end ;; # the time limit, which would come again
    esac
    ;;
  *) leave "$code" requeue ;;
esac
"""
