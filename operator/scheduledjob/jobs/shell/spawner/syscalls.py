"""The system calls that a confined job may use, and those that it is refused, each group with its reason.

What is allowed was found by tracing real programs: shells, coreutils, curl, wget, Python, Node.js, git, ssh, tar, gzip
and other compressors, jq, psql, pg_dump, openssl, gpg, Java, Go and C programs. A call that is in no group, such as one
that a newer kernel adds, returns ENOSYS, as if the kernel did not have it: C libraries then use an older one. So do
inotify (Landlock has no hook for it, and it would show the names of other jobs' scratch folders), io_uring, whose calls
no filter sees, asynchronous I/O, which is limited for the whole machine, and ``clone3``, whose arguments a filter can't
read.

To find out which calls another program needs, run it under ``strace -f -c``. Add a call only if it affects nothing but
the caller, or what Landlock checks.

Each call has two numbers, for x86_64 and for aarch64; ``-`` means that the architecture does not have it.
"""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    """System calls that are allowed or refused for one reason."""

    reason: str
    calls: str
    """Name and two numbers of each, separated by commas."""


ALLOWED = (
    Group(
        "Read and write open files, and wait for them.",
        """
        read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69,
        pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62, close 3 57, close_range 436 436, dup 32 23,
        dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, sendfile 40 71, splice 275 76, tee 276 77, vmsplice 278 75,
        copy_file_range 326 285, readahead 187 213, fadvise64 221 223, poll 7 -, ppoll 271 73, select 23 -,
        pselect6 270 72, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -,
        epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, flock 73 32, fsync 74 82,
        fdatasync 75 83, sync 162 81, syncfs 306 267, sync_file_range 277 84, ftruncate 77 46, fallocate 285 47,
        getdents 78 -, getdents64 217 61
        """,
    ),
    Group(
        "Open, make, move and remove files, and read and change their attributes. Landlock decides which files.",
        """
        open 2 -, openat 257 56, openat2 437 437, creat 85 -, access 21 -, faccessat 269 48, faccessat2 439 439,
        stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44,
        truncate 76 45, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -, mkdirat 258 34, rmdir 84 -,
        link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, readlink 89 -, readlinkat 267 78, unlink 87 -,
        unlinkat 263 35, mknod 133 -, mknodat 259 33, chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452,
        chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, utime 132 -, utimes 235 -, futimesat 261 -,
        utimensat 280 88, umask 95 166, chdir 80 49, fchdir 81 50, getcwd 79 17, fsetxattr 190 7, getxattr 191 8,
        lgetxattr 192 9, fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13, fremovexattr 199 16
        """,
    ),
    Group(
        "Manage the process's own memory. memfd_create makes a file that only its descriptors lead to.",
        """
        brk 12 214, mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, msync 26 227, mincore 27 232,
        madvise 28 233, mlock 149 228, mlock2 325 284, mlockall 151 230, munlock 150 229, munlockall 152 231,
        mbind 237 235, get_mempolicy 239 236, set_mempolicy 238 237, set_mempolicy_home_node 450 450,
        membarrier 324 283, pkey_mprotect 329 288, pkey_alloc 330 289, pkey_free 331 290, memfd_create 319 279,
        map_shadow_stack 453 453, mseal 462 462
        """,
    ),
    Group(
        "Start processes, replace them, and wait for children. clone is checked below.",
        """
        fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, exit 60 93, exit_group 231 94, wait4 61 260,
        waitid 247 95, set_tid_address 218 96, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293,
        arch_prctl 158 -, get_thread_area 211 -, set_thread_area 205 -
        """,
    ),
    Group(
        "Wait for other threads of the job.",
        """
        futex 202 98, futex_waitv 449 449, futex_wake 454 454, futex_wait 455 455, futex_requeue 456 456,
        sched_yield 24 124, getcpu 309 168, restart_syscall 219 128
        """,
    ),
    Group(
        "Receive signals, and send them. Landlock keeps them in the sandbox (Linux 6.12). kill is checked below.",
        """
        rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigpending 127 136, rt_sigreturn 15 139, rt_sigsuspend 130 133,
        rt_sigtimedwait 128 137, sigaltstack 131 132, signalfd 282 -, signalfd4 289 74, pidfd_send_signal 424 424,
        pause 34 -
        """,
    ),
    Group(
        "Read clocks, sleep, and set timers of the process.",
        """
        time 201 -, gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114, nanosleep 35 101,
        clock_nanosleep 230 115, alarm 37 -, getitimer 36 102, setitimer 38 103, timer_create 222 107,
        timer_settime 223 110, timer_gettime 224 108, timer_getoverrun 225 109, timer_delete 226 111,
        timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87, times 100 153
        """,
    ),
    Group(
        "Use a socket. Which sockets there are is checked below.",
        """
        socketpair 53 199, bind 49 200, listen 50 201, accept 43 202, accept4 288 242, connect 42 203,
        getsockname 51 204, getpeername 52 205, getsockopt 55 209, setsockopt 54 208, sendto 44 206, recvfrom 45 207,
        sendmsg 46 211, recvmsg 47 212, sendmmsg 307 269, recvmmsg 299 243, shutdown 48 210
        """,
    ),
    Group(
        "Read and change the process's own identity. Without privileges, it can only change it to one that it has.",
        """
        getpid 39 172, gettid 186 178, getppid 110 173, getpgid 121 155, getpgrp 111 -, getsid 124 156,
        setpgid 109 154, setsid 112 157, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
        getresuid 118 148, getresgid 120 150, getgroups 115 158, setuid 105 146, setgid 106 144, setreuid 113 145,
        setregid 114 143, setresuid 117 147, setresgid 119 149, setfsuid 122 151, setfsgid 123 152,
        setgroups 116 159, capget 125 90, capset 126 91
        """,
    ),
    Group(
        "Read limits, usage and priorities, and facts about the machine.",
        """
        getrlimit 97 163, getrusage 98 165, getpriority 140 141, ioprio_get 252 31, sched_getaffinity 204 123,
        sched_getattr 315 275, sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125,
        sched_get_priority_min 147 126, sched_rr_get_interval 148 127, uname 63 160, sysinfo 99 179,
        getrandom 318 278
        """,
    ),
    Group(
        "Give up more rights, as xz and file do. Nothing here can be taken back with them.",
        """
        seccomp 317 277, landlock_create_ruleset 444 444, landlock_add_rule 445 445, landlock_restrict_self 446 446
        """,
    ),
)
"""Allowed, whatever the arguments are."""

REFUSED = (
    Group(
        "Read and change other processes of the user: their memory, their open files, their place in memory.",
        """
        ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440,
        process_mrelease 448 448, pidfd_getfd 438 438, kcmp 312 272, migrate_pages 256 238, move_pages 279 239
        """,
    ),
    Group(
        "Run programs in the kernel and observe it. Nothing that a job needs, and often a way to attack the kernel.",
        """
        bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, syslog 103 116, acct 163 89
        """,
    ),
    Group(
        "Make objects that belong to no process, so that they outlive the job, and that all jobs of the user share.",
        """
        add_key 248 217, request_key 249 218, keyctl 250 219, shmget 29 194, shmctl 31 195, shmat 30 196,
        shmdt 67 197, semget 64 190, semctl 66 191, semop 65 193, semtimedop 220 192, msgget 68 186, msgctl 71 187,
        msgrcv 70 188, msgsnd 69 189, mq_open 240 180, mq_unlink 241 181, mq_timedsend 242 182,
        mq_timedreceive 243 183, mq_notify 244 184, mq_getsetattr 245 185
        """,
    ),
    Group(
        "Watch files and folders, and open files without a path. Landlock does not check that.",
        """
        fanotify_init 300 262, fanotify_mark 301 263, name_to_handle_at 303 264, open_by_handle_at 304 265
        """,
    ),
    Group(
        "Change namespaces and mounts.",
        """
        unshare 272 97, setns 308 268, chroot 161 51, pivot_root 155 41, mount 165 40, umount2 166 39,
        open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433,
        mount_setattr 442 442
        """,
    ),
    Group(
        "Administer the machine.",
        """
        reboot 169 142, kexec_load 246 104, kexec_file_load 320 294, init_module 175 105, finit_module 313 273,
        delete_module 176 106, swapon 167 224, swapoff 168 225, quotactl 179 60, quotactl_fd 443 443,
        sethostname 170 161, setdomainname 171 162, settimeofday 164 170, clock_settime 227 112,
        clock_adjtime 305 266, adjtimex 159 171, iopl 172 -, ioperm 173 -, modify_ldt 154 -, vhangup 153 58
        """,
    ),
)
"""These return EPERM, because programs that try them handle a lack of permission."""

CHECKED = """
clone 56 220, socket 41 198, fcntl 72 25, ioctl 16 29, prctl 157 167, personality 135 92, setrlimit 160 164,
prlimit64 302 261, setpriority 141 140, ioprio_set 251 30, sched_setaffinity 203 122, sched_setattr 314 274,
sched_setparam 142 118, sched_setscheduler 144 119, kill 62 129, tkill 200 130, tgkill 234 131, rt_sigqueueinfo 129 138,
rt_tgsigqueueinfo 297 240, pidfd_open 434 434, setxattr 188 5, lsetxattr 189 6, removexattr 197 14, lremovexattr 198 15
"""
"""Allowed with some arguments, or with an error of its own. ``seccomp`` says with which."""


def numbers(calls: str, column: int) -> dict[str, int]:
    """Return the number of each of these calls by name, on the architecture of a column: 0 is x86_64, 1 aarch64."""
    known: dict[str, int] = {}
    for entry in calls.split(","):
        name, *own = entry.split()
        if own[column] != "-":
            known[name] = int(own[column])
    return known
