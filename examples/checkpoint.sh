#!/bin/sh
# A long computation that survives the end of its machine: told by a signal, it notes how far it is, and begins there the next time.
#
#     COALITION_CHECKPOINT_SIGNAL=USR1: what the worker sends when its cloud takes the machine back; SIGTERM follows before the end
#     checkpoint.sh FILE STEPS
set -eu
file=$1 steps=$2
done=0
[ -f "$file" ] && done=$(cat "$file")
echo "beginning after step $done"
save() {
    echo "$done" > "$file.new"
    mv "$file.new" "$file" # whole, or not at all
    echo "saved after step $done"
}
trap save USR1
trap 'save; exit 143' TERM
while [ "$done" -lt "$steps" ]; do
    sleep 0.05 # one step of the work
    done=$((done + 1))
    echo "$((100 * done / steps))%"
done
rm -f "$file"
echo "all $steps steps are done"
