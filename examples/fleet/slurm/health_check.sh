#!/bin/sh
# Slurm HealthCheckProgram: a short sweep of an idle node.  In slurm.conf:
#
#   HealthCheckProgram=/usr/local/lib/sdc-guard/health_check.sh
#   HealthCheckInterval=3600
#   HealthCheckNodeState=IDLE
#
# slurmd kills it after 60 seconds and takes no action of its own: what is to happen to the node
# happens here.  Only a FAIL drains it.  A SUSPECT, a sweep that could not run, and everything else
# is logged.  Each short sweep goes on where the last one stopped.
#
# Exit code: 0, whatever was found: some releases of slurmd run this program at their start until it
# gives 0, and do not register before.  1 only if the node failed and could not be drained.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${SWEEP_PATH:+:$SWEEP_PATH}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
: "${SWEEP_SECONDS:=40}"        # start included; with retests and the end it stays below 60
: "${SWEEP_BESIDE_JOBS:=no}"    # yes: also where a job is on the node
: "${SWEEP_DIR:=/var/lib/sdc-guard}"
export SWEEP_DIR
node=${SLURMD_NODENAME:-$(uname -n | cut -d. -f1)}

log() {
  logger -t sdc-guard -- "$node: $1" 2>/dev/null
  echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $node: $1" >>"$SWEEP_DIR/health_check.log"
}

mkdir -p "$SWEEP_DIR" || exit 0

# HealthCheckNodeState=IDLE keeps it from nodes with jobs; this holds where that is not set, or the
# program is started by hand.  If Slurm does not answer nobody knows, and nothing is run.
if [ "$SWEEP_BESIDE_JOBS" != yes ]; then
  if ! jobs=$(squeue --noheader --nodelist "$node" --states R,CG,CF,S --format %A 2>&1); then
    log "not swept: squeue: $jobs"
    exit 0
  fi
  if [ -n "$jobs" ]; then
    log "not swept: jobs are on the node"
    exit 0
  fi
fi

line=$("$here/node_sweep.sh" "$SWEEP_SECONDS" 2>"$SWEEP_DIR/last_stderr")
code=$?
log "$line"
[ "$code" -eq 1 ] || exit 0

# The reason is what `sinfo -R` shows.
if ! answer=$(scontrol update NodeName="$node" State=DRAIN Reason="sdc_guard $line" 2>&1); then
  log "FAIL, and the node could not be drained: $answer"
  exit 1
fi
log "drained"
exit 0
