# What the suites share; each starts with `. "$(dirname "$0")/lib.sh"`.
#
# A suite runs inside the guest as root, in a fresh directory of the share. It knows SHARE_DIR (that directory),
# GUEST_TMP (a directory in the guest's memory) and SUITE_SCALE (quick or full), streams its output, and exits with 0
# when all is well. Where they exist, NAME.prepare runs on the host before the guest starts and NAME.host after it, with
# the same directory as their argument. `# time-limit:`, `# time-limit-quick:` (seconds) and `# needs:` (options of the daemon) in a suite's first
# lines are for the runner. The guest has no Python; scripts on the host may use it.
# shellcheck shell=bash

set -euo pipefail

: "${SHARE_DIR:=$PWD}" "${GUEST_TMP:=/tmp}" "${SUITE_SCALE:=quick}"
SUITES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# scale QUICK FULL: the number for the scale that runs.
scale() {
    if [ "$SUITE_SCALE" = full ]; then echo "$2"; else echo "$1"; fi
}

# say WORDS...: a line of progress with the seconds since the suite began.
say() {
    echo "[${SECONDS}s] $*"
}

# die WORDS...: the suite has found a fault.
die() {
    echo "FAIL: $*" >&2
    exit 1
}

# skip WORDS...: the suite cannot run here, for a reason that lies outside the share.
skip() {
    echo "skip: $*"
    exit 0
}

# have COMMAND: the guest's image must contain it; a missing one is a fault of the image and not a reason to pass.
have() {
    command -v "$1" > /dev/null || die "the guest has no $1; add it to the guest's image"
}

# drop_caches: make the guest ask the daemon again for everything.
drop_caches() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
}

# same WHAT GOT WANTED
same() {
    [ "$2" = "$3" ] || die "$1 is '$2', should be '$3'"
}

# in_pairs FUNCTION ITEM...: calls the function with each item, two at a time; fails where one of them did.
in_pairs() {
    local function=$1 item process started status=0
    shift
    while [ $# -gt 0 ]; do
        started=()
        for item in "${@:1:2}"; do
            "$function" "$item" &
            started+=($!)
        done
        for process in "${started[@]}"; do wait "$process" || status=1; done
        [ "$status" = 0 ] || return 1
        shift ${#started[@]}
    done
}
