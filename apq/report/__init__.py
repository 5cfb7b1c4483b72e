"""Reports of runs: pages, figures, and costs."""
