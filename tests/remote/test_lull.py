"""Who is woken late, and that nobody is forgotten."""

from __future__ import annotations

import threading

from skyward.remote.lull import before_waiting, hear, lull


def test_a_thread_that_hears_nothing_makes_calls_at_once() -> None:
    made: list[int] = []

    before_waiting(lambda: made.append(1))

    assert made == [1]


def test_a_thread_that_hears_makes_them_before_it_waits_in_order_and_once() -> None:
    seen: list[list[int]] = []

    def thread() -> None:
        made: list[int] = []
        late = hear()
        for number in range(3):
            before_waiting(lambda number=number: made.append(number))
        seen.append(list(made))
        lull(late)
        lull(late)
        seen.append(list(made))

    other = threading.Thread(target=thread)
    other.start()
    other.join()

    assert seen == [[], [0, 1, 2]]


def test_a_call_that_puts_another_one_off_is_not_lost() -> None:
    made: list[str] = []

    def thread() -> None:
        late = hear()
        before_waiting(lambda: before_waiting(lambda: made.append("second")))
        lull(late)
        made.append("waits")
        lull(late)

    other = threading.Thread(target=thread)
    other.start()
    other.join()

    assert made == ["waits", "second"]
