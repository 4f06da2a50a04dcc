"""Make the pictures of README and docs: `make pictures`."""
