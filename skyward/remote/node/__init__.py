"""What runs on instances: the standard library alone, and nothing of ours is installed there.

Three programs: `entry` attaches a client to the `agent`, `worker` runs tasks, `builder` makes environments. The first two
travel as the modules that `skyward.remote.program` lists; `lean`, `wire` and `unpack` belong to both.
"""
