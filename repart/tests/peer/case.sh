#!/bin/bash
# Runs one case of the peer's suite against our binary, in a mount namespace of its own:
#   unshare --mount case.sh UNITS CASE container|host BINARY SCRATCH
# UNITS holds the suite's scripts as shipped, SCRATCH is empty and ours. Exit: 0 passed, 77 never called us, else failed.
set -eu
units=$1 case=$2 mode=$3 binary=$4 scratch=$5

mkdir "$scratch/bin" "$scratch/tmp" "$scratch/var-tmp"
calls=$scratch/calls
: >"$calls"

# Counts the calls, so that a case that skips itself is not taken for one that passed.
cat >"$scratch/bin/systemd-repart" <<WRAPPER
#!/bin/bash
echo "\$*" >>'$calls'
exec -a systemd-repart '$binary' "\$@"
WRAPPER
cat >"$scratch/bin/systemd-detect-virt" <<WRAPPER
#!/bin/bash
[ $mode = container ]
WRAPPER
# No udev is needed: partx makes the nodes where the suite waits for them.
cat >"$scratch/bin/udevadm" <<'WRAPPER'
#!/bin/bash
case $1 in
wait)
    for word; do
        case $word in /dev/loop*p*) partx --update "${word%p*}" ;; /dev/loop*) partx --update "$word" ;; esac
    done ;;
settle | control | trigger | lock) ;;
*) echo "udevadm $*: not imitated" >&2; exit 1 ;;
esac
exit 0
WRAPPER
chmod +x "$scratch"/bin/*

# All that the case does, without the suite's own last lines, which run everything and leave a file in /.
main=$units/TEST-58-REPART.sh
script=$units/case-$case-$mode.sh
sed '/^OFFLINE="yes"$/,$d' "$main" >"$script"
[ -s "$script" ] && [ "$(wc -l <"$script")" -lt "$(wc -l <"$main")" ] || { echo "no end in $main" >&2; exit 2; }
cat >>"$script" <<'TAIL'
# Until 257 the sector sizes are no case of their own.
if ! declare -F testcase_sector >/dev/null; then
    testcase_sector() { for size in 512 1024 2048 4096; do test_sector "$size"; done; }
fi
declare -F "testcase_$PEER_CASE" >/dev/null
OFFLINE="yes"
run_testcases
if ! systemd-detect-virt --container; then
    OFFLINE="no"
    run_testcases
fi
TAIL

# Where a loop device's nodes come late or a case fails half-way, nothing of it stays on the machine.
before=$(losetup --noheadings --output NAME | sort)
detach() {
    losetup --noheadings --output NAME,BACK-FILE | while read -r name file; do
        case $file in */test-repart.*) grep -qxF "$name" <<<"$before" || losetup --detach "$name" || true ;; esac
    done
}
trap detach EXIT

mount --make-rprivate /
mount --bind "$scratch/var-tmp" /var/tmp
case $units/$scratch/$binary in /tmp/* | *//tmp/*) ;; *) mount --bind "$scratch/tmp" /tmp ;; esac

status=0
PATH=$scratch/bin:$PATH PEER_CASE=$case TEST_MATCH_TESTCASE="^testcase_$case\$" LC_ALL=C.UTF-8 \
    timeout --kill-after=5 "${PEER_DEADLINE:-120}" bash "$script" || status=$?
# 77 would be taken for a skip.
[ $status -eq 0 ] || exit 1
[ -s "$calls" ] || exit 77
