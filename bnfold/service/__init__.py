"""The optimization service: HTTP in front of a store of models and a queue of jobs, each a child of the command."""
