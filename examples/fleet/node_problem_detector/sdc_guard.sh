#!/bin/sh
# node-problem-detector plugin: a short sweep of this node.
#
# Exit code, as node-problem-detector reads it: 0 OK, 1 NonOK (the condition becomes True),
# 2 Unknown.  stdout: one line of at most 80 characters, the condition's message.
#
# A FAIL stays: a unit that is wrong now and then passes the next sweep, and the condition would be
# gone.  Once it is mended, or replaced, remove the file that the message is kept in:
#
#   rm /var/lib/sdc-guard/failed
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${SWEEP_PATH:+:$SWEEP_PATH}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
: "${SWEEP_DIR:=/var/lib/sdc-guard}"
export SWEEP_DIR

if [ -s "$SWEEP_DIR/failed" ]; then
  head -c 80 "$SWEEP_DIR/failed"
  exit 1
fi
mkdir -p "$SWEEP_DIR" || { echo "UNKNOWN: cannot write $SWEEP_DIR" | cut -c 1-80; exit 2; }
# stderr of a plugin goes to node-problem-detector's log, 4 KiB of it.
line=$("$here/node_sweep.sh" "${1:-40}")
code=$?
echo "$line"
case $code in
  0) exit 0 ;;
  1) printf '%s\n' "$line" >"$SWEEP_DIR/failed"; exit 1 ;;
  *) exit 2 ;;
esac
