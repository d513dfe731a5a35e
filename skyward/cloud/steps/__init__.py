"""Programs that run on instances as root: one request in JSON on standard input, an exit status, and words for people.

Any Python >= 3.8, its standard library alone, no imports of ours: each is sent as text. Strings of the user reach
other programs as single arguments, never a shell.
"""
