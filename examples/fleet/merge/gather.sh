#!/bin/bash
# Sweep hosts over ssh, without launcher or network between them, and join what they found:
#
#   gather.sh HOSTS_FILE [options of `sdc-guard sweep`]
#   gather.sh hosts.txt --2min
#
# HOSTS_FILE has one host on each line.  Needed are ssh without a password, and sdc-guard on each
# host and here.  OUT gets node-HOST.json and node-HOST.log of each, fleet.json and fleet.html.
#
# Exit code: that of `sdc-guard merge`: 0 clean, 1 FAIL, 3 SUSPECT or a host missing, 5 nothing.
set -u
if [ "$#" -lt 1 ] || [ ! -r "$1" ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
hosts_file=$1
shift
: "${PROGRAM:=sdc-guard}"           # here
: "${REMOTE_PROGRAM:=sdc-guard}"    # on the hosts
: "${OUT:=$PWD/sdc-guard-sweep}"
: "${SEED:=$(date +%s)}"
mkdir -p "$OUT" || exit 2
rm -f "$OUT"/node-*.json

mapfile -t hosts < <(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$hosts_file")
for host in "${hosts[@]}"; do
  # One seed for all: hosts are compared by what they computed from the same operands.  -n: a loop's
  # ssh must not read its input.  The document comes on stdout; nothing is copied afterwards.
  # shellcheck disable=SC2029 # expanded here
  ssh -n -o BatchMode=yes -o ConnectTimeout=20 "$host" \
    "SDC_GUARD_HOST=$host $REMOTE_PROGRAM sweep $(printf '%q ' --seed "$SEED" --json \
      --rendezvous none --out "/tmp/sdc-guard-sweep-$host" "$@")" \
    >"$OUT/node-$host.json" 2>"$OUT/node-$host.log" &
done
wait

# A host that did not answer leaves an empty file: without it, it is missing, not damaged.
find "$OUT" -name 'node-*.json' -empty -delete
shopt -s nullglob
documents=("$OUT"/node-*.json)
if [ "${#documents[@]}" -eq 0 ]; then
  echo "no host gave a document; see $OUT/node-*.log" >&2
  exit 5
fi
exec "$PROGRAM" merge "${documents[@]}" --expect-hosts "$hosts_file" --out "$OUT/fleet.json" \
  --html "$OUT/fleet.html"
