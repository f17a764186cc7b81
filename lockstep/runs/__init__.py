"""Runs: the Job, the source that travels, the record of what ran, and the proof that two runs were the same."""
