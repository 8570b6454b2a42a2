#!/bin/sh
# node_end.sh ROOT NAME: end the node whose files are below ROOT, and leave nothing of it on the machine. NAME is that
# of its bridge and of its control groups. Run at an ordinary end, and by a guard when the tests were killed: so it
# asks nobody, and finds what is the node's by the two names that no other node has.
root=$1 name=$2
case $root in /*/*) ;; *) echo "node_end.sh: '$root' is no folder of a node" >&2; exit 2 ;; esac

servers() { # the node's own programs: they name a file below ROOT in their arguments
    for process in /proc/[0-9]*; do
        arguments=$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null) || continue
        program=${arguments%% *}
        case ${program##*/} in
            kubelet | containerd | containerd-shim* | runc)
                case $arguments in *"$root/"*) echo "${process#/proc/}" ;; esac ;;
        esac
    done
}

groups() { # control groups below the node's, in every hierarchy, deepest first
    for group in "/sys/fs/cgroup/$name" /sys/fs/cgroup/*/"$name"; do
        [ -d "$group" ] && find "$group" -depth -type d
    done
}

jobs() { # what runs in the node's containers
    for group in $(groups); do cat "$group/cgroup.procs" 2>/dev/null; done | sort -u
}

for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    # The servers first, since they would start again what ends.
    left=$(servers) || left=
    [ -n "$left" ] || left=$(jobs)
    [ -n "$left" ] || break
    # shellcheck disable=SC2086 # one word for each process
    kill -s KILL $left 2>/dev/null
    sleep 0.1
done

# Overlays, tokens of Pods and network namespaces, deepest first; with its namespace a Pod's interface goes.
awk -v root="$root/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do
    umount "$mount" 2>/dev/null || umount -l "$mount"
done
for group in $(groups); do rmdir "$group" 2>/dev/null; done
while read -r rule; do
    # shellcheck disable=SC2086 # a rule is words
    iptables -w -t nat -D $rule 2>/dev/null
done <"$root/nat"
(
    flock 9
    ip link del "$name" 2>/dev/null
    # The last node of the machine gives back the settings that the first one found.
    set -- /sys/class/net/sj-*
    if [ ! -e "$1" ] && [ -e /run/scheduledjob-nodes ]; then
        while read -r setting value; do
            [ "$(cat "$setting")" = "$value" ] || echo "$value" >"$setting"
        done </run/scheduledjob-nodes
        rm -f /run/scheduledjob-nodes
    fi
) 9</run
# What has a place that can't be chosen: links to logs, results of the network plugin, sockets of nobody.
for link in /var/log/containers/*; do
    case $(readlink "$link") in "$root/"*) rm -f "$link" ;; esac
done
for sandbox in "$root"/containerd-root/io.containerd.grpc.v1.cri/sandboxes/*; do
    rm -f /var/lib/cni/results/*-"${sandbox##*/}"-*
done
for socket in /run/containerd/s/* /var/lib/kubelet/device-plugins/kubelet.sock; do
    [ -S "$socket" ] && ! grep -qF "$socket" /proc/net/unix && rm -f "$socket"
done

if awk -v root="$root/" 'index($2, root) == 1 {found = 1} END {exit !found}' /proc/mounts; then
    echo "node_end.sh: something is still mounted below $root, which is left as it is" >&2
    exit 1
fi
rm -rf --one-file-system -- "$root"
