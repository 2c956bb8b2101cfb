"""Text written by a model, with a capture of the row of attention that produced each new token."""
