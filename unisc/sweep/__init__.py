"""Sweeps: a plan of runs, workers that execute them, and records on disk; `launch.local.run_sweep` is the way in."""
