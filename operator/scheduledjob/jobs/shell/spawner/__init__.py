"""The helper process: starts shell jobs, and sees to it that none outlives the lease that it runs under.

A replica can be killed or stopped at any moment, and then it ends nothing any more. So each replica has one small
process beside it that starts its jobs and is their ancestor for good: it is a subreaper, so whatever a job leaves
behind (a daemon that forked twice and made a session of its own) becomes the helper's child and can't hide. It kills
everything when the replica is gone, and it kills an attempt a little before its lease deadline unless it hears that
the lease was renewed; a replica that is stopped tells it nothing, and so its jobs end. Why a process of its own and
not a thread: a thread dies and stops with its process. Why single-threaded and small: ``posix_spawn`` from a process
with few pages takes a fraction of a millisecond, and nothing in it can dead-lock. Confined jobs add threads, which
share nothing with the loop but a lock to be told by: one for each job (``sandboxes``), one to remove (``scratch``).

    main.py        the loop: requests, starts, exits, deadlines, stragglers
    job.py         one job: its pipes, its start, the head and tail of its output
    cells.py       what a confined job runs in, and its end
    landlock.py    giving up files and signals
    seccomp.py     giving up system calls
    scratch.py     the folder that a confined job may write to
    processes.py   what is alive, by ``/proc``; also used by the replica when the helper itself has died
    wire.py        the messages between the two

The helper runs this package by itself (``python -I -S``), not as a part of ``scheduledjob``: nothing here imports
anything but the standard library and its neighbours.
"""
