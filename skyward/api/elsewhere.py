"""Stand-ins for provider configs on an instance, where no plugin is installed. Standard library only."""

from __future__ import annotations

from typing import Any


class Placeholder:
    """An inert provider config: takes any keyword, shows it as an attribute, launches nothing."""

    _values: dict[str, Any]

    def __init__(self, **values: Any) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._values:
            return self._values[name]
        raise AttributeError(
            f"{type(self).__name__}() has no value for {name!r} on an instance: only what was written is known here"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: {name!r} cannot be set")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values == other._values

    def __hash__(self) -> int:
        return hash((type(self).__name__, tuple(sorted(self._values))))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self._values)


def placeholder(name: str) -> type[Placeholder]:
    """A class of inert configs called `name`."""
    return type(name, (Placeholder,), {"__module__": "skyward"})


def _rebuild(name: str, values: dict[str, Any]) -> Any:
    """Where the plugin is installed this gives the real config."""
    import skyward

    return getattr(skyward, name)(**values)
