"""Long campaigns of the crash harness: each is a command, with exit status 1 for any violation.

python -m tests.campaigns.kill_sweep    SIGKILL at every storage call
python -m tests.campaigns.faults        EIO and ENOSPC at every storage call
python -m tests.campaigns.power_cut     power cuts on a loop-mounted file system, as root
python -m tests.campaigns.soak          80 steps, killed at 10 random moments, again and again
"""
