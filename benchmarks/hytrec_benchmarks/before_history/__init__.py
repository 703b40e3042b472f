"""What changed when histories became the truth: the last revision that kept a state for everyone, beside this one."""
