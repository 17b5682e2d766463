"""`vlrt bench`: how long each stage takes on this machine, how sure that is, and what is left.

`plan` lists what to measure, `worker` measures one row in a process of its own, `record` is the
file format, and `table`, `compare`, `report` and `sweep` read it.
"""
