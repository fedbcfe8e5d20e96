"""Around the training loop: run folders, processes, threads, logging, stopping. Nothing here changes a weight."""
