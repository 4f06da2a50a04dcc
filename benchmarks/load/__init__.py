"""What runs in the containers: the load, and what looks at the servers."""
