"""The command algm-doctor: what this machine and a model are, what will go wrong and its cure, and the self-test."""
