"""What heads do, each behaviour in a file of its own: detectors for ``scan``, and analyses that say more than a score."""
