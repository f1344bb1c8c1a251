#!/bin/bash
# The sweep under torchrun: on each node
#
#   sweep.sh NNODES HOST:PORT [options of `sdc-guard sweep`]
#   sweep.sh 4 head:29500 --2min
#
# One process for each node: it has a worker for each core and GPU itself.  torchrun begins when
# all nodes have joined, and gives up after JOIN_S seconds; then this node is swept alone.  (srun
# and the Kubernetes job need not wait: there a node that does not come is only missing.)
#
# torchrun ends with 1 whatever went wrong, so the exit code is taken from the reports: on the node
# of rank 0, or where OUT is shared, that of the fleet; elsewhere that of this node.
set -u
if [ "$#" -lt 2 ]; then
  sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
nnodes=$1 endpoint=$2
shift 2
: "${SWEEP_PYTHON:=python3}"       # one that has torch and torch-sdc-guard
: "${NPROC_PER_NODE:=1}"
: "${OUT:=$PWD/sdc-guard-sweep}"
: "${JOIN_S:=120}"
: "${RUN_ID:=sdc-guard}"               # another one for each of two sweeps at the same endpoint
python=$SWEEP_PYTHON
host=${SDC_GUARD_HOST:=$(uname -n)}
export SDC_GUARD_HOST
mkdir -p "$OUT" || exit 2
started=$(mktemp "${TMPDIR:-/tmp}/sdc-guard.XXXXXX") || exit 2
trap 'rm -f "$started"' EXIT

"$python" -m torch.distributed.run --nnodes "$nnodes" --nproc-per-node "$NPROC_PER_NODE" \
  --max-restarts 0 --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "$RUN_ID" \
  --rdzv-conf "join_timeout=$JOIN_S" -m sdc_guard sweep "$@" --out "$OUT"

own=()
if [ -n "$(find "$OUT" -maxdepth 1 -name fleet.json -newer "$started")" ]; then
  own=("$OUT/fleet.json")
else
  mapfile -t own < <(find "$OUT" -path "$OUT/$host-rank-*/sweep.json" -newer "$started")
fi
if [ "${#own[@]}" -eq 0 ]; then
  echo "sweep.sh: torchrun did not begin; $host is swept alone" >&2
  exec "$python" -m sdc_guard sweep "$@" --rendezvous none --out "$OUT/$host-alone"
fi
"$python" -m sdc_guard report "${own[@]}"
