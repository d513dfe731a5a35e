"""One function, run somewhere else.

skyward run examples/01_hello.py
skyward run examples/01_hello.py:hello -- --name you
python examples/01_hello.py
"""

import platform

import skyward as sky


@sky.compute
def hello(name: str = "world") -> str:
    """What is printed here is shown live; what is returned comes back."""
    print("python", platform.python_version(), "on", platform.node())
    return f"hello {name}"


if __name__ == "__main__":
    with sky.ComputePool() as pool:  # this machine; provider="aws", accelerator="A100" rents one
        print(hello("you") >> pool)
