"""What analyses give: typed results that say how they were made, plot themselves, and are kept on disk."""
