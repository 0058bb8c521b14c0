"""`har doctor`: what of this machine, environment and project folder is not as it should be, and what to do."""
