"""What bench/solvers.py compares: problems, and solvers under one interface."""
