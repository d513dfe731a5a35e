"""Verda as a provider of Skyward."""
