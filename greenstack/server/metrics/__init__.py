"""What a replica does, in numbers that are right with any number of workers: counted, stored, told to Prometheus."""
