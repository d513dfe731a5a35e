"""Tasks x workers -> outcomes: the only dispatch loop. Imports `contracts`, `remote` and what is below them.

The `board` keeps every task (`entry`) until it has its outcome, and every `node`, under one lock. A task comes in through the
`engine`; `choice` says which node it goes to, and `dispatch` sends it (`functions` and `chunk` make the bytes). The `listener`
hears what nodes tell (`records` reads what came of a task, `outcomes` says what no node can), and `settlement` delivers that, or
puts the task back. No work waits for a thread of ours: whoever submits, and the thread each link is heard in, moves it on. The
`clock` alone is one; it watches for silence and for work that is better done elsewhere.

Of this room, modules import only those in the lines below theirs:

    engine
    listener, clock
    dispatch
    settlement, choice, chunk, records
    board, functions, outcomes
    node
    entry
"""
