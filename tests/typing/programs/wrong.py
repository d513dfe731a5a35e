"""Every marked line is a mistake, and type checkers say so."""

import skyward as sky


@sky.compute
def double(x: int) -> float:
    return x * 2.0


pool = sky.ComputePool()

double("a")  # wrong: the argument's type
double()  # wrong: an argument is missing
double(1, by=3)  # wrong: no such parameter
double(1) >> 3  # wrong: not a target
double(1) @ 3  # wrong: not a target
double(1) & 3  # wrong: not a call
double(1) >> pool >> pool  # wrong: a value is not a call
sky.gather([3])  # wrong: not calls
sky.ComputePool(memmory="8GB")  # wrong: no such argument
sky.ComputePool(nodes="2")  # wrong: the argument's type
sky.comput  # wrong: no such name
pool.map(double, ["a"])  # wrong: the items' type
pool.submit(double, "a")  # wrong: the argument's type
result: str = double(1) >> pool  # wrong: it gives a float
pair: tuple[float, str] = (double(1) & double(2)) >> pool  # wrong: it gives two floats
sky.AWS(regon="us-east-1")  # wrong: no such argument
