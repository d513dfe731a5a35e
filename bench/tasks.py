"""Tasks over real SSH, side by side with what they are compared to, in one run; prints ratios.

    python bench/tasks.py [rate] [trip] [bulk] [memory] [cold] [many]

`rate` and `cold` compare with Ray where the environment of BENCH_PYTHON has it (`make bench` makes one).
"""

from __future__ import annotations

import io
import os
import pickle
import resource
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import skyward as sky
from skyward.remote import wire
from skyward.remote.node import lean

sys.path.insert(0, str(Path(__file__).parent))
from machines import machines, pipe, ssh_command

BULK = 100 << 20
RAY = os.environ.get("BENCH_PYTHON", "")
HERE = Path(__file__).parent
ECHO = "import os\nwhile True:\n d = os.read(0, 65536)\n if not d: break\n os.write(1, d)"
"""The least a Python process can do with a frame: read it and answer."""
WORKER = """
decoder = Decoder()
while True:
    data = os.read(0, 65536)
    if not data: break
    for kind, header, payload in decoder.feed(data):
        records = []
        for task, row in zip(header["chunks"][0]["ids"], pickle.loads(payload)):
            body = pickle.dumps(noop(*row), 5)
            records.append(RECORD.pack(len(body), task, RECORD_VALUE, 0.0) + body)
        answer = b"".join(records)
        os.write(1, encode(RESULTS, {"seq": 1}, len(answer)) + answer)
"""
"""What runs a task and nothing else: no agent that survives it, no second process that it may kill."""


def noop(i: int) -> None:
    return None


def pool_of(servers: list[Any], directory: Path, **how: Any) -> sky.ComputePool:
    hosts = [f"{server.user}@{server.address}:{server.port}" for server in servers]
    provider = sky.SSH(
        hosts=hosts, key=str(directory / "id_ed25519"), known_hosts=str(directory / "known_hosts")
    )
    return sky.ComputePool(
        provider=provider, nodes=len(hosts), display="quiet", image=sky.Image(project=False), **how
    )


def best(measure: Callable[[], float], rounds: int = 5) -> float:
    return statistics.median(measure() for _ in range(rounds))


def report(what: str, ours: float, unit: str, **others: tuple[float, str]) -> None:
    """`others`: name -> (their figure, the goal); the ratio is ours / theirs."""
    print(f"{what:34s} {ours:12,.1f} {unit}")
    for name, (theirs, goal) in others.items():
        print(
            f"{'':34s} {theirs:12,.1f} {unit:10s} {name:28s} ratio {ours / theirs:8.2f}   goal {goal}",
            flush=True,
        )


def rate() -> None:
    with machines(2) as (servers, directory), pool_of(servers, directory) as pool:
        list(pool.map(noop, range(20_000)))

        def ours(n: int = 200_000) -> float:
            began = time.perf_counter()
            list(pool.map(noop, range(n)))
            return n / (time.perf_counter() - began)

        def processes(n: int = 5_000) -> float:
            with ProcessPoolExecutor(2) as executor:
                list(executor.map(noop, range(100)))
                began = time.perf_counter()
                list(executor.map(noop, range(n)))
                return n / (time.perf_counter() - began)

        others = {"ProcessPoolExecutor(2)": (best(processes, 3), ">= 5")}
        mine = best(ours, 3)
    if RAY:
        others["Ray, 2 nodes"] = (float(_ray("rate")), ">= 50")
    report("no-op tasks per second", mine, "1/s", **others)


def trip() -> None:
    with machines(2) as (servers, directory), pool_of(servers[:1], directory) as pool:
        task = sky.compute(noop)
        for _ in range(200):
            task(0) >> pool
        rows = pickle.dumps([(0,)], 5)
        chunk = {
            "chunk": 1,
            "fn": "f" * 64,
            "batch": True,
            "ids": [1],
            "needs": ["f" * 64],
            "size": len(rows),
        }
        frame = wire.encode(wire.TASKS, {"chunks": [chunk]}, len(rows)) + rows
        worker = pipe(servers[1], directory, f"exec python3 -c {shlex.quote(_worker_program())}")
        echo = pipe(servers[1], directory, f"exec python3 -c {shlex.quote(ECHO)}")
        cat = pipe(servers[1], directory, "cat")
        decoder = wire.Decoder()

        def ours() -> float:
            began = time.perf_counter()
            task(0) >> pool
            return time.perf_counter() - began

        def through(process: subprocess.Popen[bytes]) -> float:
            assert process.stdin
            assert process.stdout
            began = time.perf_counter()
            process.stdin.write(frame)
            left = len(frame)
            while left:
                left -= len(process.stdout.read(left))
            return time.perf_counter() - began

        def worked() -> float:
            """The same task by the least there can be: a frame made here, run there, its answer read here."""
            assert worker.stdin
            assert worker.stdout
            began = time.perf_counter()
            payload = pickle.dumps([(0,)], 5)
            head = wire.encode(wire.TASKS, {"chunks": [dict(chunk)]}, len(payload))
            worker.stdin.write(head + payload)
            values: list[Any] = []
            while not values:
                for _, _, records in decoder.feed(worker.stdout.read(65536)):
                    values += [pickle.loads(body) for *_, body in wire.read_records(records)]
            return time.perf_counter() - began

        for _ in range(50):
            worked(), through(echo), through(cat)
        rounds = [(ours(), worked(), through(echo), through(cat)) for _ in range(1500)]
        in_a_row = [
            [statistics.median(one() for _ in range(300)) for one in (ours, worked)] for _ in range(5)
        ]
        for process in (worker, echo, cat):
            process.terminate()
            process.wait()
    mine, run, echoed, bare = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
    report("no-op round trip, median", mine, "us",
           **{"the frame run by Python, ssh pipe": (run, "<= 2"), "echoed by Python, ssh pipe": (echoed, "(nothing is run)"),
              "echoed by cat, ssh pipe": (bare, "(no Python at all)")})  # fmt: skip
    # A pipe and one small loop stay in a processor's caches when nothing comes between two frames.
    mine, run = (statistics.median(column) * 1e6 for column in zip(*in_a_row, strict=True))
    report("the same, 300 in a row", mine, "us",
           **{"the frame run by Python, ssh pipe": (run, "(nothing in between)")})  # fmt: skip


def _worker_program() -> str:
    """Our own frames, on a machine that has nothing of ours, and `WORKER`."""
    sources = {module.__name__: Path(module.__file__).read_text() for module in (lean, wire)}
    return f"""
import os, pickle, sys, types
for name in ("skyward", "skyward.remote", "skyward.remote.node"):
    sys.modules[name] = types.ModuleType(name)
for name, source in {sources!r}.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(source, module.__dict__)
from skyward.remote.wire import *
def noop(i): return None
{WORKER}"""


def bulk() -> None:
    with machines(1) as (servers, directory), pool_of(servers, directory) as pool:
        length = sky.compute(len)

        @sky.compute
        def make(n: int) -> bytes:
            return bytes(n)

        length(b"") >> pool
        counter = iter(range(1_000_000))

        def up() -> float:
            data = next(counter).to_bytes(8, "big") + bytes(BULK)
            began = time.perf_counter()
            length(data) >> pool
            return BULK / (time.perf_counter() - began) / 1e6

        def down() -> float:
            began = time.perf_counter()
            assert len(make(BULK) >> pool) == BULK
            return BULK / (time.perf_counter() - began) / 1e6

        def pipe_up() -> float:
            peer = pipe(
                servers[0],
                directory,
                f"exec python3 -c 'import sys; print(len(sys.stdin.buffer.read({BULK})), flush=True)'",
            )
            assert peer.stdin
            assert peer.stdout
            time.sleep(0.4)  # connected and started: only the transfer is measured
            view = memoryview(bytes(BULK))
            began = time.perf_counter()
            while view:
                view = view[peer.stdin.write(view[: 1 << 20]) :]
            peer.stdout.read(1)
            seconds = time.perf_counter() - began
            peer.stdin.close()
            peer.wait()
            return BULK / seconds / 1e6

        def pipe_down() -> float:
            program = f"import sys; sys.stdin.readline(); sys.stdout.buffer.write(bytes({BULK}))"
            peer = pipe(servers[0], directory, f"exec python3 -c '{program}'")
            assert peer.stdin
            assert peer.stdout
            time.sleep(0.4)
            reader = io.BufferedReader(peer.stdout)
            began = time.perf_counter()
            peer.stdin.write(b"\n")
            value = reader.read(BULK)
            seconds = time.perf_counter() - began
            assert len(value) == BULK
            peer.wait()
            return BULK / seconds / 1e6

        figures = [(up(), pipe_up(), down(), pipe_down()) for _ in range(5)]
    a, b, c, d = (statistics.median(column) for column in zip(*figures, strict=True))
    report("100 MB to a node", a, "MB/s", **{"Python to Python, ssh pipe": (b, ">= 0.8")})
    report("100 MB back", c, "MB/s", **{"Python to Python, ssh pipe": (d, ">= 0.8")})


def memory() -> None:
    """Peak memory of a client that sends 100 MB, over one that sends nothing, in a process of its own."""
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import tasks, skyward as sky\n"
        "n = int(sys.argv[2])\n"
        "with tasks.machines(1) as (s, d), tasks.pool_of(s, d) as pool:\n"
        "    sky.compute(len)(os.urandom(n)) >> pool\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )  # not ru_maxrss: a process has that of the one that started it, to begin with

    def peak(size: int) -> float:
        output = subprocess.run(
            [sys.executable, "-c", program, str(HERE), str(size)], capture_output=True, text=True, check=True
        ).stdout
        return int(output.split()[-1]) / 1024

    report("client memory for 100 MB", peak(BULK) - peak(1), "MiB", **{"its size": (BULK / 2**20, "<= 2.2")})


def cold() -> None:
    with machines(2) as (servers, directory):

        def ours() -> float:
            began = time.perf_counter()
            with pool_of(servers, directory) as pool:
                sky.compute(noop)(0) >> pool
                return time.perf_counter() - began

        mine = best(ours, 5)
        others = {}
        if RAY:
            starts = [" ".join(ssh_command(server, directory)) for server in servers]
            others["Ray over the same SSH"] = (float(_ray("cold", *starts)), "<= 0.15")
        report("cold start to first result", mine, "s", **others)


def many(count: int = 64) -> None:
    with machines(count) as (servers, directory):

        def ours() -> float:
            began = time.perf_counter()
            with pool_of(servers, directory):
                return time.perf_counter() - began

        def bare() -> float:
            began = time.perf_counter()
            with ThreadPoolExecutor(16) as executor:
                list(
                    executor.map(
                        lambda server: subprocess.run(ssh_command(server, directory, "true"), check=True),
                        servers,
                    )
                )
            return time.perf_counter() - began

        pairs = [(bare(), ours()) for _ in range(3)]
    report(f"{count} nodes ready", statistics.median(b for _, b in pairs), "s",
           **{f"{count} x ssh true, 16 threads": (statistics.median(a for a, _ in pairs), "<= 1.5")})  # fmt: skip


def _ray(what: str, *arguments: str) -> str:
    done = subprocess.run(
        [RAY, str(HERE / "ray_peer.py"), what, *arguments], capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        raise SystemExit(f"Ray failed:\n{done.stderr[-2000:]}")
    return done.stdout.partition("figure ")[2].split()[0]


def main() -> None:
    everything = {one.__name__: one for one in (rate, trip, bulk, memory, cold, many)}
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    threading.excepthook = lambda args: sys.exit(f"a thread failed: {args}")
    for name in sys.argv[1:] or everything:
        everything[name]()


if __name__ == "__main__":
    main()
