"""What runs on instances: the agent, its workers, and what builds an environment. Standard library only."""
