"""``minisnn bench``: how fast layers and training steps are, on the backends of a CPU.

`cases` holds the sizes and inputs, `ours` what is run, `race` checks and times.  The scripts in
``docs/benchmarks/``, which are not part of the package, compare with other libraries.
"""
