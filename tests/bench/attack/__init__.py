"""One container against the agent: what the attackers send, and how the agent does meanwhile."""
