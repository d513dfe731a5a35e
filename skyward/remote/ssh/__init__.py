"""SSH over paramiko: reaching a machine, knowing it, and bytes to and from its commands."""
