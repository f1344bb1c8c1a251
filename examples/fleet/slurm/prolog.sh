#!/bin/sh
# Slurm Prolog: a few seconds of sweep before a job has the node.  In slurm.conf:
#
#   Prolog=/usr/local/lib/sdc-guard/prolog.sh
#   PrologFlags=Alloc
#   BatchStartTimeout=60
#
# For nodes that are given to one job at a time: on shared nodes it would run beside others' jobs.
#
# Exit code: any code but 0 makes Slurm drain the node and requeue the job, held unless
# SchedulerParameters has nohold_on_prolog_fail.  So 1 is for a FAIL alone: a suspicion, a disk that
# is full, or an installation that is broken on all nodes must not drain a cluster.
#
# It calls no Slurm command: Slurm's guide asks that of prologs.
set -u
# Slurm sets no search path for a prolog.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${SWEEP_PATH:+:$SWEEP_PATH}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
: "${SWEEP_SECONDS:=15}"
: "${SWEEP_DIR:=/var/lib/sdc-guard}"
export SWEEP_DIR

mkdir -p "$SWEEP_DIR" || exit 0
# Of a job's variables none is for the sweep: it is to use what the node has.
line=$(unset CUDA_VISIBLE_DEVICES; "$here/node_sweep.sh" "$SWEEP_SECONDS" \
  2>"$SWEEP_DIR/last_stderr")
code=$?
log="job ${SLURM_JOB_ID:-?} on ${SLURMD_NODENAME:-$(uname -n)}: $line"
logger -t sdc-guard -- "$log" 2>/dev/null
echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $log" >>"$SWEEP_DIR/prolog.log"
[ "$code" -ne 1 ]
