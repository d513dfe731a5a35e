"""DigitalOcean as a provider of Skyward."""
