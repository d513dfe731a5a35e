"""Vast.ai as a provider of Skyward."""
