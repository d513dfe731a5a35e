"""AWS EC2 as a provider of Skyward."""
