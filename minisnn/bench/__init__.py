"""``minisnn bench``: how fast, against whom, and near which limit.  Results are checked before a clock starts.

`cases` say what is run, `ours` and `peers` run it, `worker` is the process each of them gets, `machine` measures the
limits of this machine, and `command` alternates between the processes and prints ratios.
"""
