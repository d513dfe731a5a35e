"""Frozen values that every room shares: tasks, requirements, offers, instances, outcomes, events.

Standard library only, because this package also travels to instances. Imports only `skyward.errors`.
"""
