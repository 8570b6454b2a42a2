"""The helper process: starts shell jobs, and ensures that no job outlives its lease.

A replica can be killed or stopped at any moment, and then it can't end its jobs. So each replica has a small process
beside it, which starts its jobs and stays their ancestor: it is a subreaper, so whatever a job leaves behind (such as a
daemon that forked twice and made its own session) becomes a child of the helper and can't hide. The helper kills
everything when the replica is gone. It kills an attempt a little before its lease deadline unless the replica reports
that the lease was renewed. A replica that is stopped reports nothing, so its jobs end.

It is a process and not a thread because a thread dies and stops with its process. It is small and has one thread
because ``posix_spawn`` from a process with few pages takes a fraction of a millisecond, and because nothing in it can
deadlock. Confined jobs add threads, which share only a lock with the loop: one for each job (``sandbox``), and one that
removes folders (``scratch``).

    loop.py        the loop: requests, starts, exits, deadlines, stragglers
    child.py       a job: its pipes, its start, the head and the tail of its output
    sandbox.py     starts and kills a confined job
    landlock.py    gives up files and signals
    seccomp.py     gives up system calls
    syscalls.py    which system calls, and why
    scratch.py     the folder that a confined job may write to
    processes.py   which processes are alive, from ``/proc``; also used by the replica when the helper has died
    messages.py    the messages between replica and helper

The helper runs this package alone (``python -I -S``), not as a part of ``scheduledjob``, so these modules import only
the standard library and each other.
"""
