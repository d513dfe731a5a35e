"""What a plugin sees: the hooks, and the base classes it may fill in. Imports only `model` and `errors`."""
